"""Sums such as 2+2: one operation on two numbers."""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer


def _numbers(rng: random.Random) -> tuple[int, str, int, int]:
    """Two numbers, the sign between them and the result."""
    sign = rng.choice("++--*/")
    if sign in "*/":
        x, y = rng.randint(1, 10), rng.randint(1, 10)
        return (x, sign, y, x * y) if sign == "*" else (x * y, sign, y, x)
    largest = rng.choice((10, 30, 99))
    x, y = rng.randint(0, largest), rng.randint(0, largest)
    if sign == "+":
        return x, sign, y, x + y
    return max(x, y), sign, min(x, y), abs(x - y)


def make(rng: random.Random) -> Item:
    """One sum."""
    x, sign, y, result = _numbers(rng)
    expression = f"{x}{sign}{y}"
    prompt = rng.choice((f"What is {expression}?", expression, f"Compute {expression}."))
    answer = f"Here {expression}={result}. Answer: {result}"
    return Item("sums", prompt, answer, result, (x, sign, y))


TASK = Task("sums", "sums of two numbers", make, same_answer, step_delimiter=".", train_weight=4)
