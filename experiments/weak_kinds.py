"""The kinds of question that the embedded model still got wrong, as a task to train on:
`credit train --tasks pocket-v2,experiments/weak_kinds.py`.

A question is drawn from a family, again and again until it is of a weak kind, and half of them are
put in other words. It shares the split of the question that it was, so no test item is trained on.
Several sums in one question are a kind of their own: they practise digits five times as often in
a row of as many tokens.
"""

from __future__ import annotations

import dataclasses
import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic import (
    algebra,
    discrete,
    facts,
    one_fact,
    one_step,
    output,
    rule,
    sums,
    wordings,
)
from creditdecoding.tasks.synthetic.words import listing

_FAMILIES = (algebra, discrete, facts, one_fact, one_step, output, rule, sums)
TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in _FAMILIES}
SHARES = {
    "discrete": 5,
    "output": 4,
    "rule": 3,
    "facts": 2,
    "one-fact": 2,
    "one-step": 2,
    "algebra": 1,
    "sums": 1,
}
"""How often each family is drawn."""
MANY_SUMS = 0.25
"""How many of the questions are of several sums."""


def is_weak(item: Item) -> bool:
    """Whether a question is of a kind that the model gets wrong more often than others: yes or no,
    two of three against the third, a choice among numbers, divisions, two-digit sums.
    """
    if item.task in ("one-fact", "facts"):
        return item.gold in ("yes", "no")
    if item.task == "discrete":
        return "The difference is" in item.answer
    if item.task == "rule":
        return "above" in item.answer or "becomes" in item.answer
    if item.task in ("sums", "output"):
        return True
    return "Divide by" in item.answer or "Together" in item.answer


def make(rng: random.Random) -> Item:
    """One question of a weak kind."""
    if rng.random() < MANY_SUMS:
        return _several_sums(rng)
    family = rng.choices(list(SHARES), list(SHARES.values()))[0]
    task = TASKS[family]
    item = task.make(rng)
    while not is_weak(item):
        item = task.make(rng)
    prompt = item.prompt
    if rng.random() < 0.5:
        prompt = wordings.noisy_prompt(item, rng)
    return dataclasses.replace(item, task="weak-kinds", prompt=prompt, split_as=item.task)


def _several_sums(rng: random.Random) -> Item:
    """Three to six sums, none of which is held out."""
    drawn: dict[str, object] = {}
    count = rng.randint(3, 6)
    while len(drawn) < count:
        item = sums.TASK.make(rng)
        x, sign, y = item.key
        is_easy = x <= 20 and y <= 20
        is_practised = not is_easy or rng.random() < 0.3
        if is_practised and item.split == "train":
            drawn[f"{x}{sign}{y}"] = item.gold
    results = [str(result) for result in drawn.values()]
    gold = listing(results)
    steps = " ".join(f"Here {expression}={result}." for expression, result in drawn.items())
    prompt = f"Compute {listing(list(drawn))}."
    return Item("weak-kinds", prompt, f"{steps} Answer: {gold}", gold, tuple(drawn))


def score(text: str, item: Item) -> bool:
    """As the family of the item scores it; of several sums the whole list must be right."""
    is_several_sums = item.split_as is None
    return same_answer(text, item) if is_several_sums else wordings.score(text, item)


TASK = Task("weak-kinds", "kinds of question that the model gets wrong", make, score)
