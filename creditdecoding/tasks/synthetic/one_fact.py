"""One fact about a country: asked, asked the other way round, or doubted."""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.facts import COLUMNS, COUNTRIES


def make(rng: random.Random) -> Item:
    """One question."""
    row = rng.choice(COUNTRIES)
    country, capital = row[:2]
    attribute = rng.choice(list(COLUMNS))
    value = row[COLUMNS[attribute]]
    kind = rng.choice(("value", "value", "country", "which", "doubt"))
    if kind == "value":
        prompt = rng.choice(
            (
                f"What is the {attribute} of {country}?",
                f"Tell me the {attribute} of {country}.",
                f"Name the {attribute} of {country}.",
            )
        )
        return _item(prompt, country, attribute, value, value, ("value", country, attribute))
    if kind == "which":
        return _which(rng, country, capital)
    if kind == "country":
        prompt = rng.choice(
            (
                f"Which country has the capital {capital}?",
                f"{capital} is the capital of which country?",
                f"Name the country whose capital is {capital}.",
            )
        )
        return _item(prompt, country, "capital", capital, country, ("country", capital))
    return _doubt(rng, country, attribute, value)


def _which(rng: random.Random, country: str, capital: str) -> Item:
    """Which of two countries has a capital."""
    other = rng.choice([row[0] for row in COUNTRIES if row[0] != country])
    first, second = rng.sample((country, other), 2)
    prompt = rng.choice(
        (
            f"Is {capital} the capital of {first} or of {second}?",
            f"Which has the capital {capital}, {first} or {second}?",
            f"{capital}: the capital of {first} or {second}?",
        )
    )
    key = ("which", capital, first, second)
    return _item(prompt, country, "capital", capital, country, key)


def _doubt(rng: random.Random, country: str, attribute: str, value: str) -> Item:
    """Whether something is the capital, continent or language of a country."""
    column = COLUMNS[attribute]
    claim = value if rng.random() < 0.5 else rng.choice(COUNTRIES)[column]
    prompt = rng.choice(
        (
            f"Is {claim} the {attribute} of {country}?",
            f"Does {country} have the {attribute} {claim}?",
            f"{claim} is the {attribute} of {country}, yes or no?",
        )
    )
    gold = "yes" if claim == value else "no"
    comparison = f" {value} or {claim}? {gold}."
    key = ("doubt", country, attribute, claim)
    return _item(prompt, country, attribute, value, gold, key, comparison)


def _item(
    prompt: str,
    country: str,
    attribute: str,
    value: str,
    gold: str,
    key: tuple[str, ...],
    comparison: str = "",
) -> Item:
    fact = f"The {attribute} of {country} is {value}."
    answer = f"Here is what I know. {fact}{comparison} Answer: {gold}"
    return Item("one-fact", prompt, answer, gold, key)


TASK = Task("one-fact", "one fact", make, same_answer, step_delimiter=".", train_weight=2)
