"""Arithmetic word problems with worked steps. (As GSM8K.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import PEOPLE, THINGS

_CHANGES = {
    "+": (
        ("{n} finds {k} more.", "Finding {k} more"),
        ("{n} gets {k} from {o}.", "Getting {k}"),
        ("{n} buys {k} more.", "Buying {k} more"),
    ),
    "-": (
        ("{n} gives {k} to {o}.", "Giving away {k}"),
        ("{n} loses {k}.", "Losing {k}"),
        ("{n} sells {k}.", "Selling {k}"),
    ),
    "*": (("Then {n} has {k} times as many.", "Having {k} times as many"),),
}
"""What happens to somebody's things, as the problem says it and as the worked answer does."""


def _change(rng: random.Random, value: int) -> tuple[str, int, int]:
    """An operation on `value`: its sign, its number and the new value."""
    sign = rng.choice(["+"] * (value <= 20) + ["-"] * (value >= 3) + ["*"] * (value <= 9))
    if sign == "*":
        number = rng.randint(2, 3)
        return sign, number, value * number
    if sign == "-":
        number = rng.randint(1, min(9, value - 1))
        return sign, number, value - number
    number = rng.randint(1, 9)
    return sign, number, value + number


def changes(rng: random.Random, count: int, task: str = "arithmetic") -> Item:
    """`count` changes to what somebody has, one after the other."""
    (name, other), thing = rng.sample(PEOPLE, 2), rng.choice(THINGS)
    value = start = rng.randint(2, 15)
    openings = (
        f"{name} has {value} {thing}.",
        f"{name} starts with {value} {thing}.",
        f"At first {name} has {value} {thing}.",
    )
    story, steps = [rng.choice(openings)], [f"{name} starts with {value} {thing}."]
    key: list[object] = ["chain", start]
    for _ in range(count):
        sign, number, new = _change(rng, value)
        sentence, gerund = rng.choice(_CHANGES[sign])
        story.append(sentence.format(n=name, o=other, k=number))
        steps.append(f"{gerund.format(k=number)}: {value}{sign}{number}={new}.")
        key += [sign, number]
        value = new
    questions = (
        f"How many {thing} does {name} have now?",
        f"How many {thing} are left with {name}?",
        f"How many {thing} has {name} at the end?",
    )
    prompt = " ".join([*story, rng.choice(questions)])
    answer = " ".join([*steps, f"So {name} has {value} {thing}. Answer: {value}"])
    return Item(task, prompt, answer, value, tuple(key))


def _compare(rng: random.Random) -> Item:
    """What three people have: the second more or fewer than the first, the third times as many."""
    (a, b, c), thing = rng.sample(PEOPLE, 3), rng.choice(THINGS)
    first, number = rng.randint(2, 12), rng.randint(1, 9)
    factor = rng.randint(2, 3)
    fewer = number < first and rng.random() < 0.5
    second = first - number if fewer else first + number
    third = second * factor
    total = first + second + third
    question = rng.choice(
        ("How many do they have together?", f"How many {thing} do they have in all?")
    )
    prompt = (
        f"{a} has {first} {thing}. {b} has {number} {'fewer' if fewer else 'more'} than {a}. "
        f"{c} has {factor} times as many as {b}. {question}"
    )
    answer = (
        f"{a} has {first} {thing}. "
        f"{b} has {first}{'-' if fewer else '+'}{number}={second} {thing}. "
        f"{c} has {second}*{factor}={third} {thing}. "
        f"Together {first}+{second}={first + second}. "
        f"Together {first + second}+{third}={total}. Answer: {total}"
    )
    return Item("arithmetic", prompt, answer, total, ("compare", first, second, factor))


def make(rng: random.Random) -> Item:
    """One problem: a series of changes, or three people compared."""
    return changes(rng, rng.choice((2, 3))) if rng.random() < 0.7 else _compare(rng)


TASK = Task(
    "arithmetic",
    "arithmetic word problems",
    make,
    same_answer,
    step_delimiter=".",
    train_weight=2,
)
