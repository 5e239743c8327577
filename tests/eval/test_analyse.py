"""`credit analyse`: items decoded now, saved traces, resumption, bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.eval import evaluate as evaluation
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make

FAST = ["--gen-length", "12", "--block-length", "5"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def decoded(model: str) -> list[str]:
    """A command that decodes four answers and the oracle's two."""
    options = ["--tasks", "facts", "--limit", "2", "--decoders", "credit:threshold=0.5"]
    return ["analyse", "-m", model, *options, "--threads", "1", *FAST]


def test_the_command_decodes_and_draws(decoded: list[str], tmp_path: Path) -> None:
    steps, reliability = tmp_path / "s.png", tmp_path / "r.png"
    done = run_credit([*decoded, "--png", steps, "--reliability-png", reliability, "--json"])
    report = json.loads(done.stdout)
    assert report["prompts"] == 2 and report["calibration"]["looks"] > 0
    names = [record["decoder"] for record in report["decoders"]]
    assert names == ["fixed", "credit:threshold=0.5"]
    assert report["decoders"][0]["over_oracle"] >= 1
    assert steps.stat().st_size > 5000 and reliability.stat().st_size > 5000


@pytest.mark.slow
def test_the_tables_fit_80_columns(decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printed = run_credit(decoded).stdout
    assert "oracle NFE" in printed and "Tokens changed by credit" in printed
    assert "Too few prompts" in printed and "…" not in printed


def test_open_text_is_judged_by_standard_decoding_alone(model: str, tmp_path: Path) -> None:
    questions, picture = tmp_path / "open.jsonl", tmp_path / "r.png"
    questions.write_text('{"prompt": "What is a bicycle?"}\n{"prompt": "Why do we sleep?"}\n')
    run = ["analyse", "-m", model, "--tasks", questions, "--decoders", "credit:threshold=0.5"]
    run += ["--threads", "1", *FAST]
    done = run_credit([*run, "--json", "--reliability-png", picture])
    assert done.status == 0, done.stderr
    report = json.loads(done.stdout)
    fixed, credit = report["decoders"]
    assert fixed["score"] is None and fixed["wrong_reference"] is None and fixed["same"] == 100.0
    assert credit["over_oracle"] >= 1 and credit["wrong"]["judged"] > 0
    assert credit["attribution"]["commits"] > 0
    assert report["calibration"]["final"]["all"]["looks"] > 0
    assert report["calibration"]["right"]["all"]["looks"] == 0
    assert picture.stat().st_size > 5000
    printed = run_credit(run).stdout
    assert re.search(r"^ fixed +- +100\.0 ", printed, re.MULTILINE), printed
    assert "There is no reference answer to compare with." in printed


class Killed(BaseException):
    """As good as SIGKILL between two answers."""


def killed_at(count: int, score: Callable[..., Any]) -> Callable[..., Any]:
    """A scorer that is killed at its n-th answer."""
    calls: list[int] = []

    def score_answer(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == count:
            raise Killed
        return score(*arguments)

    return score_answer


def test_an_interrupted_analysis_continues(
    decoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.json"
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "score_answer", killed_at(4, evaluation.score_answer))
        with pytest.raises(Killed):
            run_credit([*decoded, "--out", out])
    assert not out.exists()
    continued = run_credit([*decoded, "--out", out, "--json"])
    assert continued.stdout == run_credit([*decoded, "--json"]).stdout
    assert json.loads(out.read_text()) == json.loads(continued.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.fixture(scope="module")
def saved(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the traces of two prompts and two decoders."""
    folder = tmp_path_factory.mktemp("traces")
    number = 0
    for prompt in ("hello", "analyse this"):
        for decoder in ("fixed", "threshold:threshold=0.5"):
            file = folder / f"{number}.jsonl"
            options = ["-m", model, "-d", decoder, "--save", file, *FAST]
            assert run_credit(["trace", prompt, *options]).status == 0
            number += 1
    return folder


def test_the_command_reads_saved_traces(model: str, saved: Path) -> None:
    plain = json.loads(run_credit(["analyse", saved, "--json"]).stdout)
    assert plain["prompts"] == 2 and plain["oracle"] is None
    names = [record["decoder"] for record in plain["decoders"]]
    assert names == ["fixed", "threshold:threshold=0.5"]
    with_oracle = json.loads(run_credit(["analyse", saved, "-m", model, "--json"]).stdout)
    first = with_oracle["decoders"][0]
    assert first["over_oracle"] >= 1 and first["nfe"] == plain["decoders"][0]["nfe"]


def test_bad_input_is_one_line(model: str, saved: Path, tmp_path: Path) -> None:
    one = saved / "1.jsonl"
    bad = [
        [saved, "--tasks", "facts"],
        [saved, "--gen-length", "9"],
        [saved / "none"],
        [one, "-m", model],
        ["--decoder", "fixed"],
        ["--decoders", "nonsense", "-m", model],
        ["--decoders", "edit", "-m", model],
        ["--temperature", "1", "-m", model],
        ["--split", "nonsense"],
        [one, "--reliability-png", tmp_path / "r.png"],
        [model, "--json"],
    ]
    for arguments in bad:
        done = run_credit(["analyse", *arguments])
        assert done.status == 2, arguments
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, arguments
