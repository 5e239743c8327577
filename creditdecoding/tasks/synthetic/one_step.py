"""Problems of one step: a change, two people together, an equation."""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.algebra import NAMES
from creditdecoding.tasks.synthetic.arithmetic import changes
from creditdecoding.tasks.synthetic.words import PEOPLE, THINGS


def _together(rng: random.Random) -> Item:
    """What two people have together."""
    (a, b), thing = rng.sample(PEOPLE, 2), rng.choice(THINGS)
    x, y = rng.randint(2, 60), rng.randint(2, 60)
    question = rng.choice(
        ("How many do they have together?", f"How many {thing} do they have in all?")
    )
    prompt = f"{a} has {x} {thing} and {b} has {y} {thing}. {question}"
    answer = f"{a} has {x} {thing}. {b} has {y} {thing}. Together {x}+{y}={x + y}. Answer: {x + y}"
    return Item("one-step", prompt, answer, x + y, ("together", x, y))


def _equation(rng: random.Random) -> Item:
    """An equation that one operation solves."""
    name = rng.choice(NAMES)
    x, a = rng.randint(1, 20), rng.randint(2, 12)
    kind = rng.choice("+-*")
    if kind == "+":
        equation, step = f"{name}+{a}={x + a}", f"Subtract {a}: {name}={x + a}-{a}={x}."
        check = f"{x}+{a}={x + a}"
    elif kind == "-":
        a = min(a, x)
        equation, step = f"{name}-{a}={x - a}", f"Add {a}: {name}={x - a}+{a}={x}."
        check = f"{x}-{a}={x - a}"
    else:
        equation, step = f"{a}{name}={a * x}", f"Divide by {a}: {name}={a * x}/{a}={x}."
        check = f"{a}*{x}={a * x}"
    prompt = rng.choice(
        (
            f"Solve {equation} for {name}.",
            f"Find {name} if {equation}.",
            f"What is {name} when {equation}?",
        )
    )
    answer = f"We have {equation}. {step} Check: {check}. Answer: {name}={x}"
    return Item("one-step", prompt, answer, f"{name}={x}", (kind, a, x))


def make(rng: random.Random) -> Item:
    """One problem."""
    kind = rng.choice((_together, _equation, None, None))
    return kind(rng) if kind else changes(rng, 1, "one-step")


TASK = Task("one-step", "problems of one step", make, same_answer, ".", train_weight=3)
