"""Applying a rule that only the prompt states: a substitution or a made-up operator. (As KOR-Bench.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Family, Item, same_answer
from creditdecoding.tasks.pocket.words import ANIMALS, COLOURS, LETTERS


def _substitute(rng: random.Random) -> Item:
    size, length = rng.choice((3, 4)), rng.choice((4, 5, 6))
    if rng.random() < 0.5:
        keys, values = rng.sample(LETTERS, size), rng.sample(LETTERS, size)
    else:
        keys, values = rng.sample(COLOURS, size), rng.sample(ANIMALS, size)
    table, verb = dict(zip(keys, values)), rng.choice(("becomes", "means"))
    word = [rng.choice(keys) for _ in range(length)]
    rule = ", ".join(f"{k} {verb} {v}" for k, v in table.items())
    text, gold = " ".join(word), " ".join(table[k] for k in word)
    prompt = rng.choice(
        (f"Rule: {rule}. Apply the rule to: {text}", f"In a code {rule}. Translate: {text}", f"Use this rule: {rule}. What is {text}?")
    )
    answer = " ".join(f"{k} {verb} {table[k]}." for k in word) + f" Answer: {gold}"
    return Item("rule", prompt, answer, gold, ("table", *((k, table[k]) for k in word)))


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
    return _substitute(rng) if rng.random() < 0.6 else _operator(rng)


FAMILY = Family("rule", "applying a rule given in the prompt", make, same_answer, share=2)
