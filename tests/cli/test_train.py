"""`credit train` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from creditdecoding.tasks import load_tasks
from tests.helpers.cli import run_credit

SMALL = (
    "--steps=1",
    "--hidden-size=32",
    "--num-heads=2",
    "--num-layers=2",
    "--intermediate-size=64",
    "--batch-size=2",
    "--drill-steps=0",
    "--no-compile",
)


@pytest.mark.slow
def test_the_report_has_the_questions_that_were_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path decides which questions are held out
    lines = [f'{{"prompt": "Who is {number}?", "answer": "Tom."}}\n' for number in range(40)]
    Path("questions.jsonl").write_text("".join(lines))
    result = run_credit(["train", "--tasks", "questions.jsonl", "--out", "run", *SMALL])
    assert result.status == 0, result.stderr
    report = json.loads(Path("run/report.json").read_text())
    (quiz,) = load_tasks("questions.jsonl")
    held_out = [item for item in quiz.fixed_items or () if item.split == "test"]
    assert 0 < len(held_out) < len(lines)
    assert report["test"]["credit"]["items"] == len(held_out)
