"""Practice for a small network: sums that carry or borrow a ten, several in a row.
`credit train --tasks pocket-v2,experiments/carries.py`.

A single sum is a short row, so a network sees few of them for the time that it trains. No sum that
`sums` holds out is asked here.
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.synthetic import sums

NAME = "carries"
PRACTISED = 0.8
"""Share of the sums that carry or borrow."""


def needs_a_ten(x: int, sign: str, y: int) -> bool:
    """Whether the last digits of a sum carry a ten, or those of a difference borrow one."""
    if sign == "+":
        return x % 10 + y % 10 >= 10
    return sign == "-" and x % 10 < y % 10


def _sum(rng: random.Random) -> Item:
    """A sum from training."""
    is_practised = rng.random() < PRACTISED
    while True:
        item = sums.TASK.make(rng)
        is_fit = not is_practised or needs_a_ten(*item.key)
        if is_fit and item.split == "train":
            return item


def make(rng: random.Random) -> Item:
    """Four to seven sums and their results."""
    drawn = [_sum(rng) for _ in range(rng.randint(4, 7))]
    expressions = ["{}{}{}".format(*item.key) for item in drawn]
    steps = [f"Here {expression}={item.gold}." for expression, item in zip(expressions, drawn)]
    answer = " ".join(steps)
    return Item(NAME, f"Sums: {'; '.join(expressions)}.", answer, answer, tuple(expressions))


def score(text: str, item: Item) -> bool:
    """All results are right."""
    return text.strip() == str(item.gold)


TASK = Task(NAME, "several sums that carry or borrow", make, score, step_delimiter=".")
