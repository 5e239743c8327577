"""Training rows from the tasks."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.tasks import custom
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.rows import LENGTH_MULTIPLE, draw_items, make_batches, with_shares
from creditdecoding.train.tokenizer import task_tokenizer
from tests.helpers.adaptations import write_held_out_question
from tests.train.conftest import TASKS

END_OF_TURN = 5
END = 1


def test_batches_hold_every_row_whole(tokenizer: Tokenizer) -> None:
    items = draw_items(TASKS, 20, random.Random(0))
    assert {item.split for item in items} == {"train"}
    assert len({item.task for item in items}) == 8
    answers = []
    for batch in make_batches(items, tokenizer, END_OF_TURN, END, 2, random.Random(0)):
        assert batch.tokens.shape[1] % LENGTH_MULTIPLE == 0
        ends = (batch.prompt_lengths + batch.answer_lengths).tolist()
        for row, start, end in zip(batch.tokens, batch.prompt_lengths.tolist(), ends):
            assert row[end - 1] == END_OF_TURN and (row[end:] == END).all()
            answers.append(tokenizer.decode(row[start:end].tolist()))
    assert sorted(answers) == sorted(item.answer for item in items)


def test_a_task_is_drawn_as_often_as_its_share_says() -> None:
    """Of items that are all kept, each round of turns has exactly the shares."""
    tasks = with_shares(TASKS, "rule=5, facts=3")
    turns = sum(task.train_weight for task in tasks)
    drawn = Counter(item.task for item in draw_items(tasks, 200 * turns, random.Random(0)))
    own = {task.name: task.train_weight for task in TASKS}
    expected = {**own, "rule": 5, "facts": 3}
    total = sum(expected.values())
    for name, share in expected.items():
        assert drawn[name] / drawn.total() == pytest.approx(share / total, rel=0.15)
    assert with_shares(TASKS, "") == list(TASKS)


def test_questions_that_are_all_held_out_are_refused(tmp_path: Path) -> None:
    task = custom.load(str(write_held_out_question(tmp_path)))
    for tasks in ([task], [*TASKS, task]):
        with pytest.raises(OptionError, match="too few questions to learn from"):
            task_tokenizer(tasks, 1152, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("rul=2", "Did you mean 'rule'"),
        ("rule", "no whole number of turns"),
        ("rule=0", "no whole number of turns"),
        ("rule=1.5", "no whole number of turns"),
        ("rule=-1", "no whole number of turns"),
        ("rule=10000000", "rule=1 to rule=1000"),
        ("rule=2,rule=3", "rule is given twice"),
    ],
)
def test_shares_that_mean_nothing_are_refused(shares: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        with_shares(TASKS, shares)
