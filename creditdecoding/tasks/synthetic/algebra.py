"""Linear equations solved step by step. (As MATH.)"""

from __future__ import annotations

import random
from typing import NamedTuple

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import LETTERS

NAMES = [letter for letter in LETTERS if letter not in "aeilo"]


class _Solution(NamedTuple):
    equation: str
    steps: list[str]
    check: str


def _term(factor: int, name: str) -> str:
    return name if factor == 1 else f"{factor}{name}"


def _plus(v: str, a: int, b: int, x: int) -> _Solution:
    c = a * x + b
    steps = [f"Subtract {b}: {a}{v}={c}-{b}={a * x}.", f"Divide by {a}: {v}={a * x}/{a}={x}."]
    return _Solution(f"{a}{v}+{b}={c}", steps, f"{a}*{x}={a * x} and {a * x}+{b}={c}")


def _minus(v: str, a: int, b: int, x: int) -> _Solution:
    b = min(b, a * x)
    c = a * x - b
    steps = [f"Add {b}: {a}{v}={c}+{b}={a * x}.", f"Divide by {a}: {v}={a * x}/{a}={x}."]
    return _Solution(f"{a}{v}-{b}={c}", steps, f"{a}*{x}={a * x} and {a * x}-{b}={c}")


def _bracket(v: str, a: int, b: int, x: int) -> _Solution:
    b = min(b, 6)
    c = a * (x + b)
    steps = [f"Divide by {a}: {v}+{b}={c}/{a}={x + b}.", f"Subtract {b}: {v}={x + b}-{b}={x}."]
    return _Solution(f"{a}({v}+{b})={c}", steps, f"{x}+{b}={x + b} and {a}*{x + b}={c}")


def _both_sides(v: str, a: int, b: int, x: int, d: int) -> _Solution:
    """The unknown on both sides, a times on the left and d < a times on the right."""
    c = (a - d) * x + b
    left, right = _term(a - d, v), _term(d, v)
    steps = [f"Subtract {right}: {left}+{b}={c}.", f"Subtract {b}: {left}={c}-{b}={c - b}."]
    if a - d > 1:
        steps.append(f"Divide by {a - d}: {v}={c - b}/{a - d}={x}.")
    check = f"{a}*{x}={a * x} and {a * x}+{b}={a * x + b}"
    return _Solution(f"{a}{v}+{b}={right}+{c}", steps, check)


def make(rng: random.Random) -> Item:
    """One equation in one unknown, with a whole solution."""
    v = rng.choice(NAMES)
    a, b = rng.randint(2, 5), rng.randint(1, 12)
    x = rng.randint(1, 9)
    kind = rng.choice(("plus", "minus", "bracket", "both"))
    if kind == "both":
        solution = _both_sides(v, a, b, x, rng.randint(1, a - 1))
    else:
        solution = {"plus": _plus, "minus": _minus, "bracket": _bracket}[kind](v, a, b, x)
    equation = solution.equation
    prompt = rng.choice(
        (f"Solve {equation} for {v}.", f"Find {v} if {equation}.", f"What is {v} when {equation}?")
    )
    steps = " ".join(solution.steps)
    answer = f"We have {equation}. {steps} Check: {solution.check}. Answer: {v}={x}"
    return Item("algebra", prompt, answer, f"{v}={x}", (kind, equation.replace(v, "x")))


TASK = Task("algebra", "algebra", make, same_answer, step_delimiter=".", train_weight=3)
