"""Applying a rule that only the prompt states: for each item of a list, or a made-up operator. (As
KOR-Bench.)
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import LETTERS


def _each(rng: random.Random) -> Item:
    """A rule for each number of a list."""
    kind, k = rng.choice("+*>"), rng.randint(2, 9)
    numbers = rng.sample(range(1, 10 if kind == "*" else 16), rng.choice((3, 4)))
    if kind == "*":
        k = rng.randint(2, 3)
    if kind == ">":
        k = rng.randint(3, 12)
        rule = rng.choice(
            (f"keep only the numbers above {k}", f"leave out all numbers that are not above {k}")
        )
        steps = [f"{n} is {'' if n > k else 'not '}above {k}." for n in numbers]
        kept = [n for n in numbers if n > k]
    else:
        rule = rng.choice(
            (f"add {k} to each number", f"each number grows by {k}")
            if kind == "+"
            else (f"each number times {k}", f"take {k} times each number")
        )
        kept = [n + k if kind == "+" else n * k for n in numbers]
        steps = [f"{n}{kind}{k}={new}." for n, new in zip(numbers, kept)]
    gold = " ".join(map(str, kept)) or "none"
    shown = " ".join(map(str, numbers))
    prompt = rng.choice(
        (
            f"Rule: {rule}. Apply the rule to: {shown}",
            f"Use this rule: {rule}. What becomes of {shown}?",
            f"Here is a rule: {rule}. Do it with {shown}",
        )
    )
    return Item(
        "rule",
        prompt,
        f"The rule says: {rule}. {' '.join(steps)} Answer: {gold}",
        gold,
        ("each", kind, k, *numbers),
    )


def _letters(rng: random.Random) -> Item:
    """A rule for each letter of a list."""
    forward = rng.random() < 0.5
    word = rng.sample(LETTERS[1:-1], rng.choice((4, 5, 6)))
    step = 1 if forward else -1
    coded = [LETTERS[LETTERS.index(c) + step] for c in word]
    rule = f"replace each letter by the {'next' if forward else 'previous'} one of the alphabet"
    shown, gold = " ".join(word), " ".join(coded)
    prompt = rng.choice(
        (
            f"Rule: {rule}. Apply the rule to: {shown}",
            f"Use this rule: {rule}. What becomes of {shown}?",
            f"Here is a rule: {rule}. Do it with {shown}",
        )
    )
    steps = " ".join(f"{c} becomes {d}." for c, d in zip(word, coded))
    return Item("rule", prompt, f"{steps} Answer: {gold}", gold, ("letters", forward, *word))


def _operator(rng: random.Random) -> Item:
    sign, x, y, k = rng.choice("@#&"), rng.randint(2, 9), rng.randint(1, 9), rng.randint(2, 4)
    kind = rng.choice(("times-plus", "plus-times", "times-minus"))
    if kind == "times-plus":
        rule, first, gold = f"{k}*x+y", f"{k}*{x}={k * x}", k * x + y
        second = f"{k * x}+{y}={gold}"
    elif kind == "plus-times":
        rule, first, gold = f"(x+y)*{k}", f"{x}+{y}={x + y}", (x + y) * k
        second = f"{x + y}*{k}={gold}"
    else:
        y = min(y, k * x)
        rule, first, gold = f"{k}*x-y", f"{k}*{x}={k * x}", k * x - y
        second = f"{k * x}-{y}={gold}"
    prompt = rng.choice(
        (
            f"Rule: x {sign} y means {rule}. What is {x} {sign} {y}?",
            f"Let x {sign} y be {rule}. Compute {x} {sign} {y}.",
            f"Use this rule: x {sign} y is {rule}. Find {x} {sign} {y}.",
        )
    )
    answer = f"Here x is {x} and y is {y}. The rule says {rule}. First {first}. Then {second}. Answer: {gold}"
    return Item("rule", prompt, answer, gold, (kind, k, x, y))


def make(rng: random.Random) -> Item:
    """One rule with a case to apply it to."""
    return rng.choice((_each, _each, _letters, _operator, _operator))(rng)


TASK = Task(
    "rule",
    "applying a rule given in the prompt",
    make,
    same_answer,
    step_delimiter=".",
    train_weight=2,
)
