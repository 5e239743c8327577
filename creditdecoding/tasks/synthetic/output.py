"""Predicting what a small program prints. (As the output prediction of LiveCodeBench.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer

_ASK = (
    "What does this program print?",
    "What is the output of this code?",
    "Run this program and give its output.",
)


def _straight(rng: random.Random) -> Item:
    a, b = rng.sample("abcxyz", 2)
    state = {a: rng.randint(1, 15)}
    lines, steps = [f"{a} = {state[a]}"], [f"{a}={state[a]}"]
    key: list[object] = [state[a]]
    for turn in range(rng.choice((2, 3))):
        target = b if turn == 0 else rng.choice((a, b))
        source = rng.choice(sorted(state))
        op = rng.choice("+-*")
        k = rng.randint(2, 3) if op == "*" else rng.randint(1, 9)
        old = state[source]
        new = old + k if op == "+" else old - k if op == "-" else old * k
        if not 0 <= new <= 40:
            op, new = ("-", old - k) if new > 40 else ("+", old + k)
        state[target] = new
        key.append((target == a, source == a, op, k))
        lines.append(f"{target} = {source} {op} {k}")
        steps.append(f"{source}={old}, {old}{op}{k}={new}, {target}={new}")
    if rng.random() < 0.5:
        gold = state[a] + state[b]
        lines.append(f"print({a} + {b})")
        steps.append(f"{a}={state[a]}, {b}={state[b]}, {state[a]}+{state[b]}={gold}")
    else:
        gold = state[b]
        lines.append(f"print({b})")
        steps.append(f"{b}={gold}")
    return _item(rng, lines, steps, gold, ("straight", *key, f"{a} + {b}" in lines[-1]))


def _loop(rng: random.Random) -> Item:
    name = rng.choice("stuv")
    value, turns, k, op = (
        rng.randint(0, 12),
        rng.randint(2, 4),
        rng.randint(1, 9),
        rng.choice("+-i"),
    )
    if op == "-":
        value += turns * k
    lines = [
        f"{name} = {value}",
        f"for i in range({turns}):",
        f"    {name} = {name} {'+' if op == 'i' else op} {'i' if op == 'i' else k}",
        f"print({name})",
    ]
    key = ("loop", value, turns, op, 0 if op == "i" else k)
    steps = [f"{name}={value}"]
    for i in range(turns):
        by = i if op == "i" else k
        new = value - by if op == "-" else value + by
        steps.append(f"i={i}, {value}{'-' if op == '-' else '+'}{by}={new}, {name}={new}")
        value = new
    return _item(rng, lines, steps, value, key)


def _item(
    rng: random.Random, lines: list[str], steps: list[str], gold: int, key: tuple[object, ...]
) -> Item:
    prompt = rng.choice(_ASK) + "\n" + "\n".join(lines)
    return Item("output", prompt, "\n".join(steps) + f"\nAnswer: {gold}", gold, key)


def make(rng: random.Random) -> Item:
    """One program: assignments in a row, or a loop."""
    return _straight(rng) if rng.random() < 0.6 else _loop(rng)


TASK = Task(
    "output",
    "predicting a program's output",
    make,
    same_answer,
    step_delimiter="\n",
    train_weight=2,
)
