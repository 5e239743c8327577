"""Arithmetic word problems with worked steps. (As GSM8K.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import PEOPLE, THINGS

_GAIN = (
    ("{n} finds {k} more.", "Finding {k} more"),
    ("{n} gets {k} from {o}.", "Getting {k}"),
    ("{n} buys {k} more.", "Buying {k} more"),
)
_LOSS = (
    ("{n} gives {k} to {o}.", "Giving away {k}"),
    ("{n} loses {k}.", "Losing {k}"),
    ("{n} sells {k}.", "Selling {k}"),
)
_TIMES = (("Then {n} has {k} times as many.", "Having {k} times as many"),)


def chain(rng: random.Random, count: int, family: str = "arithmetic") -> Item:
    """`count` changes to what somebody has, one after the other."""
    (n, o), thing = rng.sample(PEOPLE, 2), rng.choice(THINGS)
    value = start = rng.randint(2, 15)
    said = [
        rng.choice(
            (
                f"{n} has {value} {thing}.",
                f"{n} starts with {value} {thing}.",
                f"At first {n} has {value} {thing}.",
            )
        )
    ]
    steps, ops = [f"{n} starts with {value} {thing}."], []
    for _ in range(count):
        kinds = ["+"] * (value <= 20) + ["-"] * (value >= 3) + ["*"] * (value <= 9)
        op = rng.choice(kinds)
        k = (
            rng.randint(2, 3)
            if op == "*"
            else rng.randint(1, min(9, value - 1))
            if op == "-"
            else rng.randint(1, 9)
        )
        sentence, gerund = rng.choice(_GAIN if op == "+" else _LOSS if op == "-" else _TIMES)
        new = value + k if op == "+" else value - k if op == "-" else value * k
        said.append(sentence.format(n=n, o=o, k=k))
        steps.append(f"{gerund.format(k=k)}: {value}{op}{k}={new}.")
        ops += [op, k]
        value = new
    question = rng.choice(
        (
            f"How many {thing} does {n} have now?",
            f"How many {thing} are left with {n}?",
            f"How many {thing} has {n} at the end?",
        )
    )
    return Item(
        family,
        " ".join(said) + " " + question,
        " ".join(steps) + f" So {n} has {value} {thing}. Answer: {value}",
        value,
        ("chain", start, *ops),
    )


def _compare(rng: random.Random) -> Item:
    (a, b, c), thing = rng.sample(PEOPLE, 3), rng.choice(THINGS)
    x, k, m = rng.randint(2, 12), rng.randint(1, 9), rng.randint(2, 3)
    y, more = x + k, True
    if k < x and rng.random() < 0.5:
        y, more = x - k, False
    z = y * m
    total = x + y + z
    prompt = (
        f"{a} has {x} {thing}. {b} has {k} {'more' if more else 'fewer'} than {a}. {c} has {m} times as many as {b}. "
        + rng.choice(("How many do they have together?", f"How many {thing} do they have in all?"))
    )
    answer = (
        f"{a} has {x} {thing}. {b} has {x}{'+' if more else '-'}{k}={y} {thing}. {c} has {y}*{m}={z} {thing}. "
        f"Together {x}+{y}={x + y}. Together {x + y}+{z}={total}. Answer: {total}"
    )
    return Item("arithmetic", prompt, answer, total, ("compare", x, y, m))


def make(rng: random.Random) -> Item:
    """One problem: a chain of changes, or three people compared."""
    return chain(rng, rng.choice((2, 3))) if rng.random() < 0.7 else _compare(rng)


TASK = Task("arithmetic", "arithmetic word problems", make, same_answer, step_delimiter=".")
