"""Discrete reasoning over a passage: differences, sums and comparisons of counts it states. (As
DROP.)
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import PEOPLE, THINGS, listing


def make(rng: random.Random) -> Item:
    """One passage of three counts with a question."""
    names, thing = rng.sample(PEOPLE, 3), rng.choice(THINGS)
    values = rng.sample(range(2, 20), 3)
    verb = rng.choice(("picked", "sold", "found", "made"))
    passage = rng.choice(
        (
            f"{listing([f'{n} {verb} {v} {thing}' for n, v in zip(names, values)])}.",
            f"At the fair {listing([f'{n} {verb} {v} {thing}' for n, v in zip(names, values)])}.",
            " ".join(f"{n} {verb} {v} {thing}." for n, v in zip(names, values)),
        )
    )
    kind = rng.choice(("more", "total", "most", "least"))
    said = [f"{n} {verb} {v} {thing}." for n, v in zip(names, values)]
    if kind == "more":
        rest = rng.choice([i for i in range(3) if 2 * values[i] < sum(values)])
        i, j = [i for i in range(3) if i != rest]
        pair = values[i] + values[j]
        gold: object = pair - values[rest]
        question = rng.choice(
            (
                f"How many more do {names[i]} and {names[j]} have together than {names[rest]}?",
                f"By how many are {names[i]} and {names[j]} together ahead of {names[rest]}?",
            )
        )
        answer = (
            f"{said[i]} {said[j]} Together {values[i]}+{values[j]}={pair}. {said[rest]} "
            f"The difference is {pair}-{values[rest]}={gold}. Answer: {gold}"
        )
        values = [values[i], values[j], values[rest]]
    elif kind == "total":
        first, gold = values[0] + values[1], sum(values)
        question = rng.choice(("How many is that in all?", f"How many {thing} is that together?"))
        answer = f"{said[0]} {said[1]} Together {values[0]}+{values[1]}={first}. {said[2]} Together {first}+{values[2]}={gold}. Answer: {gold}"
    else:
        best, steps = 0, [said[0]]
        for i in (1, 2):
            larger = values[i] > values[best]
            compared = f"{values[i]} is {'more' if larger else 'less'} than {values[best]}"
            if larger == (kind == "most"):
                best = i
            steps.append(f"{said[i]} {compared}, so {names[best]}.")
        gold = names[best]
        question = rng.choice(
            (
                f"Who {verb} the {kind}?",
                f"Whose number of {thing} is {'largest' if kind == 'most' else 'smallest'}?",
            )
        )
        answer = " ".join(steps) + f" Answer: {gold}"
    return Item("discrete", f"{passage} {question}", answer, gold, (kind, *values))


TASK = Task(
    "discrete",
    "discrete reasoning over a passage",
    make,
    same_answer,
    step_delimiter=".",
    train_weight=2,
)
