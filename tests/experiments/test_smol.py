"""The made training data of smol."""

from __future__ import annotations

import json
import random
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from creditdecoding.tasks.base import generate_items
from creditdecoding.train.adapt_data import load_sources
from experiments.smol import longer_lists
from experiments.smol.__main__ import distinct
from experiments.smol.lists import TASK, list_question
from experiments.smol.texts import everyday, extraction, rewriting
from tests.helpers.cli import Result, run_experiment

KINDS = ("lists", "extraction", "rewriting", "everyday", "worked")
RNG = random.Random


def make(folder: Path, *options: str) -> Result:
    return run_experiment("smol", ["--out", str(folder), "--limit", "60", *options])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problems(name: str, size: int, seed: int) -> list[dict[str, Any]]:
    """Like gsm_symbolic of reasoning-gym; every third problem has no worked answer."""
    assert (name, seed) == ("gsm_symbolic", 5)
    rows = (
        (f"Problem {i}? Give the result as your final answer. Do not include units.", i)
        for i in range(200)
    )
    return [
        {"question": text, "metadata": {"answer_cot": "" if i % 3 == 2 else f"It is {i}."}}
        for text, i in rows
    ]


def test_the_same_seed_makes_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(create_dataset=problems)
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)  # type: ignore[arg-type]
    for folder in ("one", "two"):
        result = make(tmp_path / folder)
        assert result.status == 0, result.stderr
    for kind in KINDS:
        path = tmp_path / "one" / f"{kind}.jsonl"
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        questions = [record["messages"][0]["content"] for record in read(path)]
        assert len(questions) == len(set(questions)) == 60
        (source,) = load_sources([str(path)], held_out=100)
        held_out = read(tmp_path / "one" / f"{kind}-held-out.jsonl")
        assert [record["prompt"] for record in held_out] == [
            example.messages[0]["content"] for example in source.held_out
        ]
        assert all(("answer" in record) == (kind != "worked") for record in held_out)
    worked = read(tmp_path / "one" / "worked.jsonl")[2]["messages"]
    assert [message["content"] for message in worked] == ["Problem 3?", "It is 3."]


def test_without_reasoning_gym_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    result = make(tmp_path / "data")
    assert result.status == 2 and "pip install reasoning-gym" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "data").exists()
    assert make(tmp_path / "data", "--no-worked").status == 0


def test_answers_about_lists_are_right() -> None:
    rng = RNG(1)
    for question, answer in (list_question(rng) for _ in range(2000)):
        if question.startswith("Reverse"):
            assert answer.split(", ") == question.partition(": ")[2].split(", ")[::-1]
        if question.startswith(("Count", "How many")):
            assert int(answer) == 1 + question.count(",")
        if question.startswith("Is "):
            word, _, line = question.removeprefix("Is ").partition(" in this list: ")
            assert (answer == "Yes") == (word in line.rstrip("?").split(", "))
        if question.startswith(("Remove", "Delete")):
            removed, line = question.split()[1], question.partition(": ")[2].split(", ")
            assert sorted([*answer.split(", "), removed]) == sorted(line)
        assert answer and "{" not in question + answer


def test_longer_lists_have_six_to_eight_words_and_answers_that_are_lists() -> None:
    for item in islice(generate_items(longer_lists.TASK, "test", seed=0), 500):
        _, _, line = item.prompt.rpartition(": ")
        assert longer_lists.TASK.score(item.answer, item)
        assert not longer_lists.TASK.score(item.answer + ", no", item)
        assert 5 <= item.answer.count(", ") + 1 <= 10
        if item.prompt.startswith(("Sort", "Reverse", "Repeat", "Copy this")):
            assert sorted(item.answer.split(", ")) == sorted(line.split(", "))
            assert 6 <= len(line.split(", ")) <= 8


def test_what_is_extracted_stands_in_the_text() -> None:
    rng = RNG(2)
    for question, answer in (extraction(rng) for _ in range(500)):
        values = [line.split(": ")[-1] for line in answer.splitlines()]
        assert all(value in question for value in values)


def test_rewriting_keeps_the_words_or_their_number() -> None:
    rng = RNG(3)
    for question, answer in (rewriting(rng) for _ in range(500)):
        words = question.partition(": ")[2].split()
        assert answer == str(len(words)) or len(answer.split()) == len(words)


def test_facts_are_finite() -> None:
    rng = RNG(4)
    pairs = list(distinct(iter(lambda: everyday(rng), None), 10**6))
    assert 700 < len(pairs) < 2000
    assert dict(pairs)["What is 7 plus 5?"] == "7 plus 5 is 12."


def test_the_lists_are_a_task_that_adapt_learns_only_the_training_split_of(tmp_path: Path) -> None:
    assert make(tmp_path, "--no-worked").status == 0
    held_out = {record["prompt"] for record in read(tmp_path / "lists-held-out.jsonl")}
    rng = RNG("5/lists")
    items = {item.prompt: item for item in (TASK.make(rng) for _ in range(100))}
    learnt = [record["messages"][0]["content"] for record in read(tmp_path / "lists.jsonl")]
    assert {text for text in learnt if items[text].split != "train"} == held_out
    item = items[learnt[0]]
    assert TASK.score(f"{item.answer}.", item) and not TASK.score(f"x, {item.answer}", item)
