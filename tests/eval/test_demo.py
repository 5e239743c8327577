"""The demo: what it counts, and that its rules lose nothing on its questions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from creditdecoding.bases import pull
from creditdecoding.decoders import resolve
from creditdecoding.eval import demo
from creditdecoding.eval.demo import Contestant, DemoAnswer, draw_questions, make_contestants
from creditdecoding.lm import Completion
from creditdecoding.tasks import synthetic
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS
from creditdecoding.trace import Trace
from tests.helpers.cli import Result, run_credit


def answered(name: str, *right: bool) -> Contestant:
    answers = [DemoAnswer(Completion("", "stop", Trace(())), is_right) for is_right in right]
    return Contestant(name, resolve("fixed"), answers)


def test_a_question_is_lost_if_only_the_other_answered_it_right() -> None:
    standard = answered("standard", True, True, False, False)
    fast = answered("fast", True, False, True, False)
    assert (standard.right, fast.right) == (2, 2)
    assert fast.lost_to(standard) == 1
    assert standard.lost_to(standard) == 0


def test_questions_are_drawn_by_the_seed_from_the_test_split() -> None:
    tasks = list(SYNTHETIC_TASKS.values())[:2]
    first = draw_questions(tasks, 3, 1)
    assert [task.name for task, _ in first] == [tasks[0].name] * 3 + [tasks[1].name] * 3
    assert all(item.split == "test" for _, item in first)
    assert first == draw_questions(tasks, 3, 1) != draw_questions(tasks, 3, 2)


def test_the_setting_that_a_checkpoint_names_replaces_ours() -> None:
    names = [contestant.name for contestant in make_contestants(None)]
    assert names == ["standard", "threshold 0.999", "credit 0.999", "thrift 0.999"]
    named = make_contestants(resolve("credit:threshold=0.9,alpha=0.5"))
    assert [contestant.name for contestant in named][1:3] == [
        "threshold 0.999",
        "credit 0.9, alpha 0.5",
    ]


@pytest.mark.slow
def test_the_demo_counts_and_writes_its_animation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {name: SYNTHETIC_TASKS[name] for name in ("facts", "arithmetic")}
    monkeypatch.setattr(synthetic, "SYNTHETIC_TASKS", tasks)
    path = tmp_path / "demo.svg"
    result = run_credit(["demo", "--questions", "1", "--svg", str(path)])
    assert result.status == 0, result.stderr
    rows = re.findall(
        r"^ *(standard|\w+ [\d.]+) +(\d) of 2 +(\d+) +([\d,]+)", result.stdout, re.MULTILINE
    )
    assert len(rows) == 4
    assert all(row[2] == "0" for row in rows), "a rule lost a question"
    standard, threshold, credit, thrift = [int(row[3]) for row in rows]
    assert standard > threshold >= credit >= thrift
    assert result.stdout.count(" passes in ") == 2 and "credit pull smol" in result.stdout
    assert path.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_the_race_is_on_an_open_question_where_the_language_model_was_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "SYNTHETIC_TASKS", {"facts": SYNTHETIC_TASKS["facts"]})
    monkeypatch.setattr(pull, "is_pulled", lambda name: name == "smol")
    monkeypatch.setattr(demo, "OPEN_OPTIONS", {"gen_length": 8})
    monkeypatch.setattr(demo, "OPEN_MODEL", "pocket")
    assert not is_open_race(run_credit(["demo", "--questions", "1"]))  # not pulled
    monkeypatch.setattr(pull, "is_pulled", lambda name: name == "pocket")
    path = tmp_path / "demo.svg"
    assert is_open_race(run_credit(["demo", "--questions", "1", "--svg", str(path)]))
    assert demo.OPEN_QUESTION in path.read_text(encoding="utf-8")
    assert not is_open_race(run_credit(["demo", "--questions", "1", "--model", "pocket"]))


def is_open_race(result: Result) -> bool:
    """Whether a demo raced on the open question, and if so says that it was chosen."""
    assert result.status == 0, result.stderr
    is_open = demo.OPEN_QUESTION in result.stdout
    assert is_open == ("The question was chosen" in result.stdout)
    assert is_open == ("open text of so small a model" in result.stdout)
    answers = re.findall(r"^  \w+[ \d.]*, \d+ pass(?:es)? in ", result.stdout, re.MULTILINE)
    assert len(answers) == 2 + is_open
    return is_open
