"""The kinds of question that the embedded model still got wrong, as a task to train on:
`credit train --tasks pocket-v2,experiments/weak_kinds.py`.

A question is drawn from a family, again and again until it is of a weak kind, and half of them are
put in other words. It shares the split of the question that it was, so no test item is trained on.
"""

from __future__ import annotations

import dataclasses
import random

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.synthetic import (
    algebra,
    discrete,
    facts,
    one_fact,
    one_step,
    sums,
    wordings,
)

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK for module in (algebra, discrete, facts, one_fact, one_step, sums)
}
DRAWN = ("one-fact", "one-fact", "facts", "discrete", "one-step", "algebra", "sums")
"""Families in the shares in which they are drawn."""


def is_weak(item: Item) -> bool:
    """Whether a question is of a kind that the model gets wrong more often than others: yes or no,
    two of three against the third, divisions, two-digit sums.
    """
    if item.task in ("one-fact", "facts"):
        return item.gold in ("yes", "no")
    if item.task == "discrete":
        return "The difference is" in item.answer
    if item.task == "sums":
        return True
    return "Divide by" in item.answer or "Together" in item.answer


def make(rng: random.Random) -> Item:
    """One question of a weak kind."""
    task = TASKS[rng.choice(DRAWN)]
    item = task.make(rng)
    while not is_weak(item):
        item = task.make(rng)
    prompt = item.prompt
    if rng.random() < 0.5:
        prompt = wordings.noisy_prompt(item, rng)
    return dataclasses.replace(item, task="weak-kinds", prompt=prompt, split_as=item.task)


TASK = Task("weak-kinds", "kinds of question that the model gets wrong", make, wordings.score)
