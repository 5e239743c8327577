"""Who has how many, told again in another order: a task that practises looking a number up by a
name, `credit train --tasks pocket-v2,experiments/retold.py`.

Questions of `discrete` name the facts in the order of the text so often that a small network learns
to copy numbers in that order, whatever the name is. Here the order never helps.
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import PEOPLE, THINGS, listing

FEWEST, MOST = 3, 6
"""How many people have something."""
VERBS = ("picked", "sold", "found", "made")
ASKED = (
    "Say it again in this order: {names}.",
    "Tell it again, with {names} in this order.",
    "How many for {names}?",
)


def make(rng: random.Random) -> Item:
    """A text of some counts, and all of them in another order."""
    people = rng.sample(PEOPLE, rng.randint(FEWEST, MOST))
    counts = rng.sample(range(2, 20), len(people))
    verb, thing = rng.choice(VERBS), rng.choice(THINGS)
    facts = [f"{person} {verb} {count} {thing}" for person, count in zip(people, counts)]
    text = rng.choice((f"{listing(facts)}.", " ".join(f"{fact}." for fact in facts)))
    order = list(range(len(people)))
    while order == sorted(order):
        rng.shuffle(order)
    names = listing([people[i] for i in order])
    gold = listing([str(counts[i]) for i in order])
    answer = " ".join(f"{facts[i]}." for i in order)
    prompt = f"{text} {rng.choice(ASKED).format(names=names)}"
    return Item("retold", prompt, f"{answer} Answer: {gold}", gold, (*counts, *order))


TASK = Task("retold", "counts told again in another order", make, same_answer, step_delimiter=".")
