"""Knowledge look-up: facts about countries, each seen in training, asked in combinations that were
not. (As MMLU.)
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import listing

_TABLE = """
France Paris Europe French|Italy Rome Europe Italian|Norway Oslo Europe Norwegian
Peru Lima America Spanish|Egypt Cairo Africa Arabic|Japan Tokyo Asia Japanese
Germany Berlin Europe German|Spain Madrid Europe Spanish|Greece Athens Europe Greek
Austria Vienna Europe German|Ireland Dublin Europe English|Czechia Prague Europe Czech
China Beijing Asia Chinese|Russia Moscow Europe Russian|Poland Warsaw Europe Polish
Portugal Lisbon Europe Portuguese|Sweden Stockholm Europe Swedish|Finland Helsinki Europe Finnish
Hungary Budapest Europe Hungarian|Turkey Ankara Asia Turkish|Iran Tehran Asia Persian
Iraq Baghdad Asia Arabic|Vietnam Hanoi Asia Vietnamese|Thailand Bangkok Asia Thai
Korea Seoul Asia Korean|Cuba Havana America Spanish|Chile Santiago America Spanish
Canada Ottawa America English|Kenya Nairobi Africa Swahili|Ghana Accra Africa English
Tunisia Tunis Africa Arabic|Libya Tripoli Africa Arabic
"""
COUNTRIES = [row.split() for line in _TABLE.strip().splitlines() for row in line.split("|")]
"""Country, capital, continent and language."""
COLUMNS = {"capital": 1, "continent": 2, "language": 3}


def _item(prompt: str, steps: str, gold: str, key: tuple[str, ...]) -> Item:
    answer = f"Here is what I know. {steps} Answer: {gold}"
    return Item("facts", prompt, answer, gold, key)


def _two(rng: random.Random) -> Item:
    """An attribute of one country and an attribute of another."""
    first, second = rng.sample(COUNTRIES, 2)
    a, b = rng.choice(list(COLUMNS)), rng.choice(list(COLUMNS))
    x, y = first[COLUMNS[a]], second[COLUMNS[b]]
    prompt = rng.choice(
        (
            f"What is the {a} of {first[0]} and the {b} of {second[0]}?",
            f"Tell me the {a} of {first[0]} and the {b} of {second[0]}.",
            f"Name the {a} of {first[0]} and also the {b} of {second[0]}.",
        )
    )
    steps = f"The {a} of {first[0]} is {x}. The {b} of {second[0]} is {y}."
    return _item(prompt, steps, f"{x} and {y}", ("two", first[0], a, second[0], b))


def _three(rng: random.Random) -> Item:
    """One attribute of three countries."""
    rows = rng.sample(COUNTRIES, 3)
    attribute = rng.choice(list(COLUMNS))
    countries = [row[0] for row in rows]
    values = [row[COLUMNS[attribute]] for row in rows]
    names = listing(countries)
    prompt = rng.choice(
        (
            f"What is the {attribute} of each of {names}?",
            f"Give the {attribute} of {names}.",
            f"For {names}, name the {attribute}.",
        )
    )
    facts = (f"The {attribute} of {name} is {value}." for name, value in zip(countries, values))
    return _item(prompt, " ".join(facts), listing(values), ("three", attribute, *countries))


def _choice(rng: random.Random) -> Item:
    """The capital of a country among three capitals."""
    rows = rng.sample(COUNTRIES, 3)
    country, capital = rng.choice(rows)[:2]
    options = listing([row[1] for row in rows], "or")
    prompt = rng.choice(
        (
            f"Which is the capital of {country}: {options}?",
            f"Is {options} the capital of {country}?",
            f"Choose the capital of {country} from {options}.",
        )
    )
    facts = " ".join(f"{row[1]} is the capital of {row[0]}." for row in rows)
    key = ("choice", country, *(row[0] for row in rows))
    return _item(prompt, f"{facts} So it is {capital}.", capital, key)


def _same(rng: random.Random) -> Item:
    """Whether two countries share a continent or a language."""
    attribute = rng.choice(("continent", "language"))
    column = COLUMNS[attribute]
    first = rng.choice(COUNTRIES)
    same = rng.random() < 0.5
    pool = [row for row in COUNTRIES if row != first and (row[column] == first[column]) == same]
    if not pool:
        return _same(rng)
    second = rng.choice(pool)
    prompt = rng.choice(
        (
            f"Do {first[0]} and {second[0]} have the same {attribute}?",
            f"Is the {attribute} of {first[0]} the same as the {attribute} of {second[0]}?",
            f"Do {first[0]} and {second[0]} share a {attribute}?",
        )
    )
    facts = " ".join(f"The {attribute} of {row[0]} is {row[column]}." for row in (first, second))
    verdict = "These are the same." if same else "These are not the same."
    key = ("same", attribute, first[0], second[0])
    return _item(prompt, f"{facts} {verdict}", "yes" if same else "no", key)


def make(rng: random.Random) -> Item:
    """One question."""
    return rng.choice((_two, _three, _choice, _same))(rng)


TASK = Task("facts", "knowledge look-up", make, same_answer, step_delimiter=".")
