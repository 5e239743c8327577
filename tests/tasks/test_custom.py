"""Questions of one's own: which records are taken, and how many of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import DefaultLimit, distinct_items
from tests.helpers.cli import run_credit

TWO = [
    {"question": "What is the capital of Peru?", "answer": "lima"},
    {"prompt": "Solve 3x+4=19 for x.", "answers": [5, "five"]},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in TWO))
    return path


def test_two_questions_are_taken_without_a_limit_and_this_is_said(file: Path) -> None:
    done = run_credit(["eval", "--tasks", file, "--gen-length", "8", "--json"])
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["items"] == 2
    assert f"{file}: all of its 2 items (--limit is 50 by default)" in done.stderr
    assert run_credit(["eval", "--tasks", file, "--gen-length", "8", "--limit", "2"]).status == 0


def test_a_limit_that_is_asked_for_may_not_be_larger_than_the_list(file: Path) -> None:
    for limit in ("3", "50"):
        done = run_credit(["eval", "--tasks", file, "--limit", limit])
        assert done.status == 2 and "at most 2" in done.stderr and f"got {limit}" in done.stderr


def test_a_default_is_a_number_that_takes_what_is_there(file: Path) -> None:
    (family,) = load_tasks(str(file))
    assert len(distinct_items(family, "test", 0, DefaultLimit(50))) == 2
    assert (
        len(distinct_items(family, "test", 0, DefaultLimit(1))) == 1
        and json.dumps(DefaultLimit(50)) == "50"
    )


BAD: list[tuple[dict[str, Any], str]] = [
    ({"answer": "x"}, "no 'prompt'"),
    ({"question": "x"}, "without an answer"),
    ({"prompt": "x", "question": "y", "answer": "z"}, "both prompt and question"),
    ({"prompt": "x", "answer": "y", "answers": ["z"]}, "both answer and answers"),
    ({"question": 5, "answer": "y"}, "not some text"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_other_records_are_refused_by_line(
    record: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(TWO[0]) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(OptionError, match=message):
        load_tasks(str(path))
