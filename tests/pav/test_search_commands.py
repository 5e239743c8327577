"""The commands search and pav compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from creditdecoding import load
from creditdecoding.cli import main
from creditdecoding.fingerprint import model_identity
from creditdecoding.lm import LM
from creditdecoding.pav.sampler import RolloutRequest, Sampler
from creditdecoding.pav.search.costs import verifier_cost, verifier_sequences
from creditdecoding.pav.verifier.model import Scorer, Verifier, write_verifier
from creditdecoding.pav.verifier.packing import prefix_chains
from tests.helpers.searches import HOT, problems

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=16)


@pytest.fixture(scope="module")
def verifier(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that knows nothing."""
    folder = tmp_path_factory.mktemp("verifier") / "v"
    folder.mkdir()
    write_verifier(folder, Scorer.begin(lm), model_identity(lm), {"masks": 0})
    return folder


def test_a_verifier_costs_what_it_runs(lm: LM, verifier: Path) -> None:
    """Two networks for each row: for a beam's states, and for whole answers of a pool alike."""
    loaded = Verifier.load(verifier, lm)
    ((_, one),) = Sampler(lm, HOT).draw([RolloutRequest(problems(lm)[0].root, ".", 0)])
    ((_, two),) = Sampler(lm, HOT).draw([RolloutRequest(problems(lm)[1].root, ".", 0)])
    for states in ([one.state], [one.state, two.state], [*one.state.prefixes, two.state]):
        before = loaded.sequences
        loaded.q(states)
        rows = len(prefix_chains(states))
        assert loaded.sequences - before == verifier_cost(states).sequences
        assert verifier_cost(states).sequences == verifier_sequences(rows) == 2 * rows


COMMANDS = [
    ("pav compare", "needs a verifier"),
    ("compare --search --verifier {v}", "credit pav compare"),
    ("pav compare --verifier {v} --n 0,x", "whole numbers"),
    ("pav compare --verifier {v} --n 1,2", "temperature"),
    ("pav compare --verifier {v}/nothing --temperature 1", "no verifier here"),
    ("search hello --temperature 1", "needs a verifier"),
    ("search hello --temperature 1 --method majority --limit 3", "need --tasks"),
    ("search hello --temperature 1 --verifier {v} --n 64 --memory 0.02", "rows at most"),
    ("search hello --temperature 1 --n 0", "n is out of range"),
    ("search hello --temperature 1 --alpha=-1", "alpha is out of range"),
    ("search hello --temperature 1 --k 0", "k is out of range"),
    ("search --tasks facts,mmlu=x.csv --temperature 1 --method majority", "x.csv"),
    ("search hello --tasks facts --temperature 1", "exclude each other"),
]


@pytest.mark.parametrize(("command", "expected"), COMMANDS)
def test_the_command_line_refuses_in_one_line(
    verifier: Path,
    tmp_path: Path,
    command: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["credit", *command.format(v=verifier).split()])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2 and expected in error and error.count("\n") == 1


def test_the_commands_search_and_compare(
    verifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hot = "-d threshold:threshold=0.4 --temperature 1.5 --gen-length 64 --threads 1"

    def output_of(command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["credit", *command.split()])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    one = json.loads(output_of(f"search Hello --verifier {verifier} --n 2 --c 2 --json {hot}"))
    assert (
        one["policy"]["sequences"] > 0
        and len(one["rounds"][0]) >= 1
        and one["rounds"][-1][0]["text"]
    )
    assert "Q + alpha A" in output_of(f"search Hello --verifier {verifier} --n 1 --c 1 {hot}")
    right = json.loads(
        output_of(f"search --tasks arithmetic --limit 2 --method majority --n 2 --json {hot}")
    )
    assert right["families"]["arithmetic"]["problems"] == 2 and right["verifier_sequences"] == 0
    out = tmp_path / "run"
    output = output_of(
        f"pav compare --tasks arithmetic --limit 2 --verifier {verifier} --n 1,2 --seeds 1 "
        f"--methods beam --out {out} {hot}"
    )
    assert (
        "beam" in output
        and json.loads((out / "report.json").read_text(encoding="utf-8"))["problems"] == 2
    )
    assert (out / "search.png").is_file() and len(
        (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    ) == 4


@pytest.mark.parametrize("flag", [["--delimiter", ";"], ["--raw"]])
def test_what_is_of_a_prompt_is_refused_beside_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["credit", "search", "--tasks", "arithmetic", *flag])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "for a prompt" in capsys.readouterr().err
