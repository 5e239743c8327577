"""The questions that train the embedded model on what it gets wrong."""

from __future__ import annotations

import itertools
import random

from creditdecoding.tasks.base import Item, generate_items
from creditdecoding.tasks.synthetic import sums
from experiments import weak_kinds


def drawn(count: int) -> list[Item]:
    rng = random.Random(0)
    return [weak_kinds.TASK.make(rng) for _ in range(count)]


def test_reference_answers_are_right_and_others_are_not() -> None:
    for item in drawn(300):
        assert weak_kinds.TASK.score(item.answer, item), item
        assert not weak_kinds.TASK.score("Answer: nothing of the kind", item), item


def test_every_family_is_drawn_and_has_its_own_split() -> None:
    families = {item.split_as for item in drawn(300)}
    assert families == {None, *weak_kinds.SHARES}


def test_no_sum_of_several_is_held_out() -> None:
    held_out = {
        f"{x}{sign}{y}"
        for split in ("dev", "test")
        for item in itertools.islice(generate_items(sums.TASK, split, seed=0), 1_000)
        for x, sign, y in [item.key]
    }
    several = [item for item in drawn(2_000) if item.split_as is None]
    assert len(several) > 100
    assert not held_out & {expression for item in several for expression in item.key}
