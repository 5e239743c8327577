"""`credit compare`: a run that is killed and continued, grown, or refused; the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import CreditError, OptionError
from creditdecoding.eval.compare import ComparePlan, lay_out, run, split_items
from creditdecoding.eval.compare_report import VERDICTS
from creditdecoding.eval.grid import KEY
from creditdecoding.eval.sweep import REFERENCE, parse_curves
from creditdecoding.run_dir import open_run, record_key
from creditdecoding.tasks.base import DefaultLimit, Item, Task
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make

pytestmark = pytest.mark.slow

SHORT = GenerationConfig(gen_length=10, block_length=5)
DECODERS = "fixed:k=1|3 threshold:threshold=0.002|0.9"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random checkpoint."""
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


def plan(model: str, decoders: str = DECODERS, **changes: Any) -> ComparePlan:
    """A run of a few seconds: two families, two items each."""
    options = {
        "tasks": "algebra,facts",
        "templates": ("plain", "question"),
        "dev_limit": 2,
        "limit": 2,
        "generation": SHORT,
        **changes,
    }
    return ComparePlan(
        model,
        curves=tuple(parse_curves(decoders)),
        engine=EngineConfig(batch_size=2, device="cpu"),
        **options,
    )


def timeless(path: Path) -> list[dict[str, Any]]:
    """The rows of a samples file without what is not reproducible."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    times = ("seconds", "outside_share")
    return [{name: value for name, value in row.items() if name not in times} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("run") / "undisturbed"
    run(plan(model), folder)
    return folder


def test_a_run_has_every_sample_once_in_order(undisturbed: Path, model: str) -> None:
    rows = timeless(undisturbed / "samples.jsonl")
    keys = tuple(record_key(row, KEY) for row in rows)
    assert keys == lay_out(plan(model)).order and len(rows) == 2 * 2 * 4 * 4
    files = sorted(path.name for path in undisturbed.glob("*.jsonl"))
    assert files == ["items.jsonl", "samples.jsonl"]
    counts = {"nfe", "sequence_forwards", "tokens", "tpf", "committed"}
    for row in rows:
        assert set(row) == {*KEY, "text", "right", "finish", *counts}
        committed = row["committed"]
        assert len(committed) == row["tokens"]
        assert all(1 <= number <= row["nfe"] for number in committed)
        assert row["sequence_forwards"] == row["nfe"]
        assert row["tpf"] == pytest.approx(row["tokens"] / row["nfe"], abs=1e-3)
        if row["decoder"] == REFERENCE:
            assert len(set(committed)) == len(committed)


class Progress:
    """What a run reports: the answers done and in all, and how many were added."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.added = 0

    def start(self, done: int, total: int) -> Callable[[], None]:
        self.done, self.total = done, total
        return self.tick

    def tick(self) -> None:
        self.added += 1


def test_a_run_continues_without_loss_or_repeats(
    undisturbed: Path, model: str, tmp_path: Path
) -> None:
    """Cut inside a chunk and inside a line; one line is there twice."""
    lines = (undisturbed / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "manifest.json").write_bytes((undisturbed / "manifest.json").read_bytes())
    (tmp_path / "samples.0.jsonl").write_bytes(b"".join(lines[:9]) + lines[20] + lines[21][:30])
    (tmp_path / "samples.1.jsonl").write_bytes(lines[40] + lines[3])
    progress = Progress()
    run(plan(model), tmp_path, on_start=progress.start)
    assert (progress.done, progress.total, progress.added) == (11, 64, 53)
    assert timeless(tmp_path / "samples.jsonl") == timeless(undisturbed / "samples.jsonl")
    before = (tmp_path / "samples.jsonl").read_bytes()
    run(plan(model), tmp_path)
    assert (tmp_path / "samples.jsonl").read_bytes() == before  # nothing left to do


def test_decoders_can_be_added_to_a_run(undisturbed: Path, model: str, tmp_path: Path) -> None:
    """Nothing is decoded again or lost, and all is as if they had been asked for at once."""
    folder, whole = tmp_path / "grown", tmp_path / "whole"
    shutil.copytree(undisturbed, folder)
    added = "threshold:threshold=0.7"
    progress = Progress()
    rows = run(plan(model, added), folder, on_start=progress.start)
    assert {row["decoder"] for row in rows} == {REFERENCE, added}
    assert (progress.done, progress.added) == (16, 16)
    assert run(plan(model), folder) == run(plan(model), undisturbed)
    run(plan(model, f"{DECODERS} {added}"), folder)
    run(plan(model, f"{DECODERS} {added}"), whole)
    assert timeless(folder / "samples.jsonl") == timeless(whole / "samples.jsonl")
    assert (folder / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_other_settings_are_refused(undisturbed: Path, model: str) -> None:
    with pytest.raises(OptionError, match=r"other settings.*items"):
        run(plan(model, limit=3), undisturbed)
    with pytest.raises(OptionError, match=r"other settings.*templates"):
        run(plan(model, templates=("plain",)), undisturbed)
    with pytest.raises(OptionError, match="too small for an interval"):
        plan(model, limit=1)


def test_a_damaged_folder_is_refused(undisturbed: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "samples.0.jsonl").write_text("{}\n")
    with pytest.raises(OptionError, match="without a manifest"):
        run(plan(model), tmp_path)
    (tmp_path / "manifest.json").write_bytes((undisturbed / "manifest.json").read_bytes())
    with pytest.raises(OptionError, match="line 1 of"):
        run(plan(model), tmp_path)
    with (
        open_run(tmp_path / "held", {}),
        pytest.raises(OptionError, match="at work"),
        open_run(tmp_path / "held", {}),
    ):
        pass


def arguments(model: str, folder: Path) -> list[str]:
    """The same run as a command."""
    items = ["--tasks", "algebra,facts", "--limit", "2", "--dev-limit", "2"]
    settings = ["--templates", "plain,question", "--decoders", DECODERS]
    generation = ["--gen-length", "10", "--block-length", "5"]
    engine = ["--batch-size", "2", "--device", "cpu"]
    return ["compare", "-m", model, *items, *settings, *generation, *engine, "--out", str(folder)]


def test_an_error_in_a_process_of_the_run_is_raised(model: str, tmp_path: Path) -> None:
    with pytest.raises(CreditError, match="do not fit"):
        run(plan(model, generation=GenerationConfig(gen_length=100_000)), tmp_path, jobs=2)


def test_the_command_reports(undisturbed: Path, model: str) -> None:
    done = run_credit(arguments(model, undisturbed))
    assert done.status == 0, done.stderr
    report = json.loads((undisturbed / "report.json").read_text())
    assert report["items"] == {"dev": 4, "test": 4} and report["templates"] == ["plain", "question"]
    printed = " ".join(done.stdout.split())
    assert VERDICTS[report["verdict"]] in printed and "Fewer than 100 items" in printed
    assert "By prompt template" in (undisturbed / "report.html").read_text()
    assert (undisturbed / "curves.png").stat().st_size > 5000


def quiz(items: int) -> Task:
    """A task of published items."""
    listed = tuple(Item("quiz", f"question {i}", "a", "a", (i,)) for i in range(items))
    return Task("quiz", "quiz", lambda _: listed[0], lambda *_: True, fixed_items=listed)


def test_published_items_are_dealt_out_to_dev_and_test() -> None:
    task = quiz(9)
    dev, test = split_items(task, 3, 6)
    assert (len(dev), len(test)) == (3, 6)
    assert task.fixed_items is not None and {*dev, *test} == {*task.fixed_items}


def test_a_list_shorter_than_the_defaults_is_taken_whole() -> None:
    dev, test = split_items(quiz(9), DefaultLimit(50), DefaultLimit(100))
    assert (len(dev), len(test)) == (3, 6)
    with pytest.raises(OptionError, match="larger than quiz"):
        split_items(quiz(9), 50, 100)
    curves = tuple(parse_curves("fixed"))
    limits = {"dev_limit": DefaultLimit(50), "limit": DefaultLimit(100)}
    with pytest.raises(OptionError, match="too few test items"):
        lay_out(ComparePlan("pocket", (quiz(3),), ("plain",), curves, **limits))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--decoders", "credits"], "credit"),
        (["--templates", "nice"], "template"),
        (["--limit", "1"], "too small"),
        (["--decoder", "fixed"], "--decoders"),
        (["--tasks", "gsm9k"], "task"),
        (["--report", "nowhere/r.html"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(more: list[str], expected: str, model: str, tmp_path: Path) -> None:
    done = run_credit(["compare", "-m", model, "--out", tmp_path / "o", *more])
    assert done.status == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert expected in done.stderr and not (tmp_path / "o").exists()
