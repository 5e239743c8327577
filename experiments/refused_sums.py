"""Sums that the embedded model must refuse: results below zero, three numbers and more, large
numbers, remainders, powers. `credit train --tasks pocket-v2,experiments/refused_sums.py`.

Without them it reads as much of a sum as it knows: `9-12` as 12-9, `10-4+2` as 10-4.
"""

from __future__ import annotations

import random
import re

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.synthetic import sums, wordings

NAME = "refused-sums"
REFUSAL = "I only answer small sums of two numbers, such as 38+5, 20-7, 6*8 or 45/9."
_STAND_IN = "7*7"
"""The sum of a question that is put in other words before its own expression takes the place."""
_STANDS = re.compile(r"7 *\* *7")


def _below_zero(rng: random.Random) -> list[str]:
    larger = rng.randint(1, rng.choice((10, 30, 99)))
    return [str(rng.randint(0, larger - 1)), "-", str(larger)]


def _longer(rng: random.Random) -> list[str]:
    """Three numbers or four."""
    largest = rng.choice((10, 30, 99))
    terms = [str(rng.randint(0, largest))]
    for _ in range(rng.choice((2, 2, 3))):
        terms += [rng.choice("++--*/"), str(rng.randint(0, largest))]
    return terms


def _large(rng: random.Random) -> list[str]:
    """A number of three digits or more."""
    large = rng.randint(100, rng.choice((199, 999, 9999)))
    sign = rng.choice("++--*/")
    small = rng.randint(0, rng.choice((10, 99, large)))
    if (large, sign, small) == (100, "/", 10):
        large += 1
    is_large_first = sign in "-/" or rng.random() < 0.5
    return [str(large), sign, str(small)] if is_large_first else [str(small), sign, str(large)]


def _large_product(rng: random.Random) -> list[str]:
    factors = [str(rng.randint(11, 99)), str(rng.randint(2, rng.choice((9, 99))))]
    rng.shuffle(factors)
    return [factors[0], "*", factors[1]]


def _remainder(rng: random.Random) -> list[str]:
    """A division that leaves a remainder, or by zero."""
    divisor = rng.choice((0, *range(2, 20)))
    dividend = rng.randint(1, 99)
    if divisor and dividend % divisor == 0:
        dividend += 1
    return [str(dividend), "/", str(divisor)]


def _power(rng: random.Random) -> list[str]:
    return [str(rng.randint(2, 20)), rng.choice(("**", "^")), str(rng.randint(2, 10))]


def _decimal(rng: random.Random) -> list[str]:
    numbers = [f"{rng.randint(0, 20)}.{rng.randint(1, 9)}", str(rng.randint(1, 20))]
    rng.shuffle(numbers)
    return [numbers[0], rng.choice("+-*/"), numbers[1]]


def _negative(rng: random.Random) -> list[str]:
    """A number with a minus before it."""
    return [f"-{rng.randint(1, 30)}", rng.choice("+-*"), str(rng.randint(1, 30))]


KINDS = {
    _below_zero: 3,
    _longer: 3,
    _large: 2,
    _large_product: 1,
    _remainder: 1,
    _power: 1,
    _decimal: 1,
    _negative: 1,
}
"""How often each kind is drawn."""


def make(rng: random.Random) -> Item:
    """One sum that is refused, as `sums` asks or in training's words."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    terms = kind(rng)
    expression = rng.choice(("", "", " ")).join(terms)
    bare = (_STAND_IN, _STAND_IN, _STAND_IN)  # the most alike to the sums that are answered
    prompt = rng.choice((f"What is {_STAND_IN}?", f"Compute {_STAND_IN}.", *bare))
    if rng.random() < 0.5:
        known = Item(sums.TASK.name, prompt, "", "", ())
        prompt = wordings.noisy_prompt(known, rng)
    prompt = _STANDS.sub(expression, prompt)
    return Item(NAME, prompt, REFUSAL, REFUSAL, tuple(terms))


def score(text: str, item: Item) -> bool:
    """The answer is the refusal, word for word, and no more."""
    return text.strip() == REFUSAL


TASK = Task(NAME, "sums that it must refuse", make, score, step_delimiter=".")
