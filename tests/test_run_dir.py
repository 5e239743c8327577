"""Journals and training states survive a kill, and refuse other settings and a second process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding import run_dir
from creditdecoding.errors import OptionError
from creditdecoding.run_dir import Journal, ResumableRun, check_settings, open_journal

KEY = ("decoder", "item")
SETTINGS = {"model": "pocket", "engine": {"dtype": "float32", "threads": 1}, "decoders": ["credit"]}


def record(item: int, decoder: str = "credit", **fields: Any) -> dict[str, Any]:
    return {"decoder": decoder, "item": item, **fields}


def test_a_journal_gives_back_what_its_processes_wrote(tmp_path: Path) -> None:
    with open_journal(tmp_path / "run", SETTINGS, KEY) as journal:
        for process, items in ((0, (2, 0)), (1, (1, 2))):
            with journal.writer(process) as append:
                for item in items:
                    append(record(item, process=process))
        records = journal.read()
        assert [key[1] for key in records] == [2, 0, 1]
        assert records["credit", 2]["process"] == 0, "the first of two records counts"
        journal.finalize(records, [("credit", item) for item in (0, 1)])
        assert [path.name for path in journal.folder.glob("samples*")] == ["samples.jsonl"]
        assert [key[1] for key in journal.read()] == [0, 1, 2]
        journal.delete()
    assert not (tmp_path / "run").exists()


def test_a_torn_line_is_dropped_and_a_broken_one_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, KEY)
    with journal.writer() as append:
        append(record(0))
    path = tmp_path / "samples.0.jsonl"
    with path.open("ab") as file:
        file.write(b'{"decoder": "credit", "it')
    assert list(journal.read()) == [("credit", 0)]
    with journal.writer() as append:
        append(record(1))
    assert list(journal.read()) == [("credit", 0), ("credit", 1)]
    with path.open("ab") as file:
        file.write(b'{"decoder": "credit"}\n')
    with pytest.raises(OptionError, match=r"line 3 of samples\.0\.jsonl is not a sample"):
        journal.read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "other"}, 'model: "pocket" there, "other" here'),
        ({"engine": {"dtype": "bfloat16", "threads": 1}}, 'engine.dtype: "float32" there'),
        ({"seed": 3}, "seed: null there, 3 here"),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with open_journal(tmp_path, SETTINGS, KEY):
        pass
    with (
        pytest.raises(OptionError, match="holds a run with other settings") as caught,
        open_journal(tmp_path, {**SETTINGS, **changes}, KEY),
    ):
        pass
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_decoders_may_be_added_to_a_run(tmp_path: Path) -> None:
    for decoders in (["credit"], ["fixed"], ["credit", "fixed"]):
        with open_journal(tmp_path, {**SETTINGS, "decoders": decoders}, KEY):
            pass
    assert json.loads((tmp_path / "manifest.json").read_text())["decoders"] == ["credit", "fixed"]


def test_a_damaged_or_busy_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "samples.0.jsonl").write_text("{}\n")
    with pytest.raises(OptionError, match="without a manifest"), open_journal(tmp_path, {}, KEY):
        pass
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(OptionError, match="cannot be read"), open_journal(tmp_path, {}, KEY):
        pass
    with (
        open_journal(tmp_path / "busy", {}, KEY),
        pytest.raises(OptionError, match="another run is at work"),
        open_journal(tmp_path / "busy", {}, KEY),
    ):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(OptionError, match="cannot use the folder"),
        open_journal(tmp_path / "file", {}, KEY),
    ):
        pass


def test_settings_are_compared_as_json(tmp_path: Path) -> None:
    check_settings(tmp_path, {"stop": ["a"], "steps": 3}, {"stop": ("a",), "steps": 4}, ["steps"])


class KilledError(Exception):
    """Stands for a kill."""


class Training:
    """A training loop whose weight depends on every step it took."""

    def __init__(self, folder: Path, steps: int, save_every: int = 2, **settings: Any) -> None:
        self.run = ResumableRun(folder, {"steps": steps, **settings}, may_change=("steps",))
        self.steps, self.save_every = steps, save_every
        self.weight, self.step = torch.ones(2), 0
        state = self.run.load()
        if state is not None:
            self.weight, self.step = state["weight"], state["step"]

    def train(self, kill_at: int | None = None) -> Iterator[int]:
        self.run.cut_log(self.step + 1)
        while self.step < self.steps:
            self.step += 1
            self.weight = self.weight * 1.5 + self.step
            self.run.log({"step": self.step, "weight": self.weight.tolist()})
            if self.step == kill_at:
                raise KilledError
            if self.step % self.save_every == 0 or self.step == self.steps:
                self.run.save({"step": self.step, "weight": self.weight})
            yield self.step


def test_a_killed_training_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Training(tmp_path / "whole", steps=7)
    assert list(whole.train()) == [1, 2, 3, 4, 5, 6, 7]
    for kill_at, saved in ((3, 0), (3, 2), (5, 2)):
        training = Training(tmp_path / "killed", steps=7)
        assert training.run.saved_step == training.step == saved
        with pytest.raises(KilledError):
            list(training.train(kill_at))
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "wei')
    resumed = Training(tmp_path / "killed", steps=7)
    assert list(resumed.train()) == [5, 6, 7]
    assert torch.equal(resumed.weight, whole.weight)
    assert resumed.run.log_file.read_bytes() == whole.run.log_file.read_bytes()
    assert resumed.run.records() == whole.run.records()
    assert len(resumed.run.records()) == 7
    longer = Training(tmp_path / "killed", steps=8)
    assert list(longer.train()) == [8], "the number of steps may change"


def test_a_training_run_refuses_other_settings_and_a_broken_state(tmp_path: Path) -> None:
    list(Training(tmp_path, steps=2, lr=0.1).train())
    with pytest.raises(OptionError, match=r"other settings \(lr: 0.1 there, 0.2 here\)"):
        Training(tmp_path, steps=2, lr=0.2)
    state = tmp_path / "state.pt"
    os.truncate(state, state.stat().st_size // 2)
    with pytest.raises(OptionError, match="state of this run cannot be read"):
        Training(tmp_path, steps=2, lr=0.1)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run_dir.write_atomically(path, "old")
    with pytest.raises(KilledError), run_dir.atomic_file(path) as file:
        file.write(b"half of the new")
        raise KilledError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_may_leave_its_settings_to_a_manifest(tmp_path: Path) -> None:
    run = ResumableRun(tmp_path, None, step_key="iteration")
    run.save({"iteration": 3, "weight": torch.ones(1)})
    assert set(torch.load(run.state_file, weights_only=True)) == {"iteration", "weight"}
    again = ResumableRun(tmp_path, None, step_key="iteration")
    assert again.load() is not None and again.saved_step == 3


def test_a_finished_run_deletes_its_own_files_only(tmp_path: Path) -> None:
    for kept in ((), ("notes.txt",)):
        folder = tmp_path / f"run{len(kept)}"
        with open_journal(folder, {}, ("line",)) as journal, journal.writer() as append:
            append({"line": 0})
        for name in kept:
            (folder / name).write_text("a user's own")
        journal.delete()
        assert [path.name for path in folder.glob("*")] == list(kept)
        assert folder.exists() == bool(kept)
