"""Applying a rule that only the prompt states: for each item of a list, or a made-up operator. (As
KOR-Bench.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import LETTERS


def _for_each_number(rng: random.Random) -> Item:
    """A rule for each number of a list."""
    kind, k = rng.choice("+*>"), rng.randint(2, 9)
    numbers = rng.sample(range(1, 10 if kind == "*" else 16), rng.choice((3, 4)))
    if kind == ">":
        k = rng.randint(3, 12)
    elif kind == "*":
        k = rng.randint(2, 3)
    rule = rng.choice(wordings_of(kind, k))
    steps, gold = applied(kind, k, numbers)
    prompt = _prompt(rng, rule, " ".join(map(str, numbers)))
    answer = f"The rule says: {rule}. {steps} Answer: {gold}"
    return Item("rule", prompt, answer, gold, ("each", kind, k, *numbers))


def wordings_of(kind: str, k: int) -> tuple[str, str]:
    """Two wordings of a rule for each number: "+" adds k, "*" multiplies by k, ">" keeps those
    above k.
    """
    if kind == ">":
        return f"keep only the numbers above {k}", f"leave out all numbers that are not above {k}"
    if kind == "*":
        return f"each number times {k}", f"take {k} times each number"
    return f"add {k} to each number", f"each number grows by {k}"


def applied(kind: str, k: int, numbers: Sequence[int]) -> tuple[str, str]:
    """The steps of such a rule on each of the numbers, and what it makes of them all."""
    if kind == ">":
        results = [number for number in numbers if number > k]
        steps = [f"{number} is {'' if number > k else 'not '}above {k}." for number in numbers]
    elif kind == "*":
        results = [number * k for number in numbers]
        steps = [f"{number}*{k}={number * k}." for number in numbers]
    else:
        results = [number + k for number in numbers]
        steps = [f"{number}+{k}={number + k}." for number in numbers]
    return " ".join(steps), " ".join(map(str, results)) or "none"


def _for_each_letter(rng: random.Random) -> Item:
    """A rule for each letter of a list."""
    forward = rng.random() < 0.5
    letters = rng.sample(LETTERS[1:-1], rng.choice((4, 5, 6)))
    step = 1 if forward else -1
    results = [LETTERS[LETTERS.index(letter) + step] for letter in letters]
    rule = f"replace each letter by the {'next' if forward else 'previous'} one of the alphabet"
    gold = " ".join(results)
    prompt = _prompt(rng, rule, " ".join(letters))
    steps = [f"{letter} becomes {result}." for letter, result in zip(letters, results)]
    answer = " ".join([*steps, f"Answer: {gold}"])
    return Item("rule", prompt, answer, gold, ("letters", forward, *letters))


def _prompt(rng: random.Random, rule: str, values: str) -> str:
    return rng.choice(
        (
            f"Rule: {rule}. Apply the rule to: {values}",
            f"Use this rule: {rule}. What becomes of {values}?",
            f"Here is a rule: {rule}. Do it with {values}",
        )
    )


def _operator(rng: random.Random) -> Item:
    """A made-up operator on two numbers."""
    sign = rng.choice("@#&")
    x, y = rng.randint(2, 9), rng.randint(1, 9)
    k = rng.randint(2, 4)
    kind = rng.choice(("times-plus", "plus-times", "times-minus"))
    if kind == "times-plus":
        rule, gold = f"{k}*x+y", k * x + y
        steps = f"First {k}*{x}={k * x}. Then {k * x}+{y}={gold}."
    elif kind == "plus-times":
        rule, gold = f"(x+y)*{k}", (x + y) * k
        steps = f"First {x}+{y}={x + y}. Then {x + y}*{k}={gold}."
    else:
        y = min(y, k * x)
        rule, gold = f"{k}*x-y", k * x - y
        steps = f"First {k}*{x}={k * x}. Then {k * x}-{y}={gold}."
    prompt = rng.choice(
        (
            f"Rule: x {sign} y means {rule}. What is {x} {sign} {y}?",
            f"Let x {sign} y be {rule}. Compute {x} {sign} {y}.",
            f"Use this rule: x {sign} y is {rule}. Find {x} {sign} {y}.",
        )
    )
    answer = f"Here x is {x} and y is {y}. The rule says {rule}. {steps} Answer: {gold}"
    return Item("rule", prompt, answer, gold, (kind, k, x, y))


def make(rng: random.Random) -> Item:
    """One rule with a case to apply it to."""
    kinds = (_for_each_number, _for_each_number, _for_each_letter, _operator, _operator)
    return rng.choice(kinds)(rng)


TASK = Task(
    "rule",
    "applying a rule given in the prompt",
    make,
    same_answer,
    step_delimiter=".",
    train_weight=2,
)
