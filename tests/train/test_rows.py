"""Training rows from the tasks."""

from __future__ import annotations

import random

from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.rows import LENGTH_MULTIPLE, draw_items, make_batches
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
