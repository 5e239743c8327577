"""Practice for a small network: looking a number up by a name, comparing two words, keeping one's
place in a row of numbers. `credit train --tasks pocket-v2,experiments/lookups.py`.

`discrete` names the people in the order of the text so often that a small network learns to copy
numbers in that order, whatever the name is. Here the order never helps.
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.facts import COLUMNS, COUNTRIES
from creditdecoding.tasks.synthetic.rule import applied, wordings_of
from creditdecoding.tasks.synthetic.words import COLOURS, PEOPLE, THINGS, listing

NAME = "lookups"
VERBS = ("picked", "sold", "found", "made")
ORDERS = (
    "Say it again in this order: {names}.",
    "Tell it again, with {names} in this order.",
    "How many for {names}?",
)
VALUES = {column: [row[number] for row in COUNTRIES] for column, number in COLUMNS.items()}
WORDS = (*VALUES.values(), PEOPLE, COLOURS)
"""Words that are compared come from one of these."""


def _retold(rng: random.Random) -> Item:
    """Who has how many, told again in another order."""
    people = rng.sample(PEOPLE, rng.randint(3, 7))
    most = rng.choice((20, 100))
    counts = rng.sample(range(2, most), len(people))
    verb, thing = rng.choice(VERBS), rng.choice(THINGS)
    facts = [f"{person} {verb} {count} {thing}" for person, count in zip(people, counts)]
    text = rng.choice((f"{listing(facts)}.", " ".join(f"{fact}." for fact in facts)))
    order = list(range(len(people)))
    while order == sorted(order):
        rng.shuffle(order)
    question = rng.choice(ORDERS).format(names=listing([people[i] for i in order]))
    gold = listing([str(counts[i]) for i in order])
    retold = " ".join(f"{facts[i]}." for i in order)
    return _item(f"{text} {question}", retold, gold, ("retold", *counts, *order))


def _pairs(rng: random.Random) -> Item:
    """Of some pairs of words, whether both are the same."""
    words = rng.choice(WORDS)
    pairs = []
    for _ in range(rng.randint(2, 5)):
        first = rng.choice(words)
        second = first if rng.random() < 0.5 else rng.choice(words)
        pairs.append((first, second))
    verdicts = ["yes" if first == second else "no" for first, second in pairs]
    compared = listing([f"{first} and {second}" for first, second in pairs], "then")
    if rng.random() < 0.5:
        steps = [f"{x} or {y}? {verdict}." for (x, y), verdict in zip(pairs, verdicts)]
    else:
        ends = {"yes": "These are the same.", "no": "These are not the same."}
        steps = [
            f"The first is {x}. The second is {y}. {ends[verdict]}"
            for (x, y), verdict in zip(pairs, verdicts)
        ]
    prompt = f"Is it the same word twice? {compared}."
    return _item(prompt, " ".join(steps), listing(verdicts), ("pairs", *pairs))


def _long_row(rng: random.Random) -> Item:
    """A rule for each number of a row that is longer than the rows of `rule`."""
    kind, k = rng.choice("+*>"), rng.randint(2, 9)
    most = 16
    if kind == "*":
        k = rng.randint(2, 3)
        most = 10
    numbers = [rng.randint(1, most - 1) for _ in range(rng.randint(5, 7))]
    rule = wordings_of(kind, k)[0]
    steps, gold = applied(kind, k, numbers)
    prompt = f"Rule: {rule}. Apply the rule to: {' '.join(map(str, numbers))}"
    return _item(prompt, f"The rule says: {rule}. {steps}", gold, ("row", kind, k, *numbers))


def _item(prompt: str, steps: str, gold: str, key: tuple[object, ...]) -> Item:
    return Item(NAME, prompt, f"{steps} Answer: {gold}", gold, key)


def make(rng: random.Random) -> Item:
    """Counts in another order (half of the items), pairs of words, or a long row of numbers."""
    return rng.choice((_retold, _retold, _pairs, _long_row))(rng)


TASK = Task(NAME, "look-up, comparison and place in a row", make, same_answer, step_delimiter=".")
