"""Linear equations solved step by step. (As MATH.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import LETTERS


def _term(factor: int, name: str) -> str:
    return name if factor == 1 else f"{factor}{name}"


def make(rng: random.Random) -> Item:
    """One equation in one unknown, with a whole solution."""
    v = rng.choice([c for c in LETTERS if c not in "aeilo"])
    a, b, x = rng.randint(2, 5), rng.randint(1, 12), rng.randint(1, 9)
    kind = rng.choice(("plus", "minus", "bracket", "both"))
    if kind == "minus":
        b = min(b, a * x)
    if kind == "plus":
        c = a * x + b
        equation = f"{a}{v}+{b}={c}"
        steps = [f"Subtract {b}: {a}{v}={c}-{b}={a * x}.", f"Divide by {a}: {v}={a * x}/{a}={x}."]
    elif kind == "minus":
        c = a * x - b
        equation = f"{a}{v}-{b}={c}"
        steps = [f"Add {b}: {a}{v}={c}+{b}={a * x}.", f"Divide by {a}: {v}={a * x}/{a}={x}."]
    elif kind == "bracket":
        b = min(b, 6)
        c = a * (x + b)
        equation = f"{a}({v}+{b})={c}"
        steps = [f"Divide by {a}: {v}+{b}={c}/{a}={x + b}.", f"Subtract {b}: {v}={x + b}-{b}={x}."]
    else:
        d = rng.randint(1, a - 1)
        c = (a - d) * x + b
        left, right = _term(a - d, v), _term(d, v)
        equation = f"{a}{v}+{b}={right}+{c}"
        steps = [f"Subtract {right}: {left}+{b}={c}.", f"Subtract {b}: {left}={c}-{b}={c - b}."]
        if a - d > 1:
            steps.append(f"Divide by {a - d}: {v}={c - b}/{a - d}={x}.")
    if kind == "bracket":
        check = f"{x}+{b}={x + b} and {a}*{x + b}={c}"
    else:
        sign = "-" if kind == "minus" else "+"
        check = f"{a}*{x}={a * x} and {a * x}{sign}{b}={a * x + (-b if kind == 'minus' else b)}"
    prompt = rng.choice(
        (f"Solve {equation} for {v}.", f"Find {v} if {equation}.", f"What is {v} when {equation}?")
    )
    answer = f"We have {equation}. " + " ".join(steps) + f" Check: {check}. Answer: {v}={x}"
    key = (kind, equation.replace(v, "x"))
    return Item("algebra", prompt, answer, f"{v}={x}", key)


TASK = Task("algebra", "algebra", make, same_answer, step_delimiter=".")
