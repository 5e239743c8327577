"""Discrete reasoning over a passage: differences, sums and comparisons of counts it states. (As
DROP.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import PEOPLE, THINGS, listing


@dataclass(frozen=True)
class _Counts:
    """Three people with a count each."""

    names: list[str]
    values: list[int]
    verb: str
    thing: str

    def fact(self, person: int) -> str:
        """What somebody did, without a period."""
        return f"{self.names[person]} {self.verb} {self.values[person]} {self.thing}"


_Solved = tuple[str, str, object, list[int]]
"""A question, its worked answer, the gold answer and the values in the order of the key."""


def _more(rng: random.Random, passage: _Counts) -> _Solved:
    """By how many two of the people exceed the third."""
    names, values = passage.names, passage.values
    rest = rng.choice([i for i in range(3) if 2 * values[i] < sum(values)])
    i, j = (person for person in range(3) if person != rest)
    pair = values[i] + values[j]
    difference = pair - values[rest]
    question = rng.choice(
        (
            f"How many more do {names[i]} and {names[j]} have together than {names[rest]}?",
            f"By how many are {names[i]} and {names[j]} together ahead of {names[rest]}?",
        )
    )
    answer = (
        f"{passage.fact(i)}. {passage.fact(j)}. Together {values[i]}+{values[j]}={pair}. "
        f"{passage.fact(rest)}. The difference is {pair}-{values[rest]}={difference}."
    )
    return question, answer, difference, [values[i], values[j], values[rest]]


def _total(rng: random.Random, passage: _Counts) -> _Solved:
    """How many all three have."""
    a, b, c = passage.values
    total = a + b + c
    question = rng.choice(
        ("How many is that in all?", f"How many {passage.thing} is that together?")
    )
    answer = (
        f"{passage.fact(0)}. {passage.fact(1)}. Together {a}+{b}={a + b}. "
        f"{passage.fact(2)}. Together {a + b}+{c}={total}."
    )
    return question, answer, total, passage.values


def _extreme(rng: random.Random, passage: _Counts, kind: str) -> _Solved:
    """Who has the most, or the least."""
    values, best = passage.values, 0
    steps = [f"{passage.fact(0)}."]
    for i in (1, 2):
        larger = values[i] > values[best]
        comparison = f"{values[i]} is {'more' if larger else 'less'} than {values[best]}"
        if larger == (kind == "most"):
            best = i
        steps.append(f"{passage.fact(i)}. {comparison}, so {passage.names[best]}.")
    extreme = "largest" if kind == "most" else "smallest"
    question = rng.choice(
        (f"Who {passage.verb} the {kind}?", f"Whose number of {passage.thing} is {extreme}?")
    )
    return question, " ".join(steps), passage.names[best], values


def make(rng: random.Random) -> Item:
    """One passage of three counts with a question."""
    names, thing = rng.sample(PEOPLE, 3), rng.choice(THINGS)
    values = rng.sample(range(2, 20), 3)
    passage = _Counts(names, values, rng.choice(("picked", "sold", "found", "made")), thing)
    facts = [passage.fact(person) for person in range(3)]
    text = rng.choice(
        (
            f"{listing(facts)}.",
            f"At the fair {listing(facts)}.",
            " ".join(f"{fact}." for fact in facts),
        )
    )
    kind = rng.choice(("more", "total", "most", "least"))
    if kind == "more":
        question, answer, gold, values = _more(rng, passage)
    elif kind == "total":
        question, answer, gold, values = _total(rng, passage)
    else:
        question, answer, gold, values = _extreme(rng, passage, kind)
    prompt, answer = f"{text} {question}", f"{answer} Answer: {gold}"
    return Item("discrete", prompt, answer, gold, (kind, *values))


TASK = Task(
    "discrete",
    "discrete reasoning over a passage",
    make,
    same_answer,
    step_delimiter=".",
    train_weight=3,
)
