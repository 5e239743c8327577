"""Predicting what a small program prints. (As the output prediction of LiveCodeBench.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer

_QUESTIONS = (
    "What does this program print?",
    "What is the output of this code?",
    "Run this program and give its output.",
)


def _operation(rng: random.Random, value: int) -> tuple[str, int, int]:
    """A sign, a number and what it makes of `value`: from 0 to 40."""
    sign = rng.choice("+-*")
    number = rng.randint(2, 3) if sign == "*" else rng.randint(1, 9)
    results = {"+": value + number, "-": value - number, "*": value * number}
    if results[sign] > 40:
        sign = "-"
    elif results[sign] < 0:
        sign = "+"
    return sign, number, results[sign]


def _straight(rng: random.Random) -> Item:
    """Assignments to two variables, one after the other."""
    a, b = rng.sample("abcxyz", 2)
    values = {a: rng.randint(1, 15)}
    lines, steps = [f"{a} = {values[a]}"], [f"{a}={values[a]}"]
    key: list[object] = ["straight", values[a]]
    for turn in range(rng.choice((2, 3))):
        target = b if turn == 0 else rng.choice((a, b))
        source = rng.choice(sorted(values))
        old = values[source]
        sign, number, new = _operation(rng, old)
        key.append((target == a, source == a, sign, number))
        lines.append(f"{target} = {source} {sign} {number}")
        steps.append(f"{source}={old}, {old}{sign}{number}={new}, {target}={new}")
        values[target] = new
    prints_sum = rng.random() < 0.5
    gold = values[a] + values[b] if prints_sum else values[b]
    lines.append(f"print({a} + {b})" if prints_sum else f"print({b})")
    addition = f"{a}={values[a]}, {b}={values[b]}, {values[a]}+{values[b]}={gold}"
    steps.append(addition if prints_sum else f"{b}={gold}")
    return _item(rng, lines, steps, gold, (*key, prints_sum))


def _loop(rng: random.Random) -> Item:
    """A variable that grows or shrinks in a loop: by a number, or by the loop's index."""
    name = rng.choice("stuv")
    value, turns = rng.randint(0, 12), rng.randint(2, 4)
    number = rng.randint(1, 9)
    kind = rng.choice("+-i")
    by_index = kind == "i"
    sign = "-" if kind == "-" else "+"
    if sign == "-":
        value += turns * number
    lines = [
        f"{name} = {value}",
        f"for i in range({turns}):",
        f"    {name} = {name} {sign} {'i' if by_index else number}",
        f"print({name})",
    ]
    key = ("loop", value, turns, kind, 0 if by_index else number)
    steps = [f"{name}={value}"]
    for i in range(turns):
        by = i if by_index else number
        new = value - by if sign == "-" else value + by
        steps.append(f"i={i}, {value}{sign}{by}={new}, {name}={new}")
        value = new
    return _item(rng, lines, steps, value, key)


def _item(
    rng: random.Random, lines: list[str], steps: list[str], gold: int, key: tuple[object, ...]
) -> Item:
    prompt = "\n".join([rng.choice(_QUESTIONS), *lines])
    return Item("output", prompt, "\n".join([*steps, f"Answer: {gold}"]), gold, key)


def make(rng: random.Random) -> Item:
    """One program: assignments in a row, or a loop."""
    return _straight(rng) if rng.random() < 0.6 else _loop(rng)


TASK = Task(
    "output",
    "predicting a program's output",
    make,
    same_answer,
    step_delimiter="\n",
    train_weight=4,
)
