"""Knowledge look-up: facts about countries, each seen in training, asked in combinations that were
not. (As MMLU.)
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import listing

_TABLE = """
France Paris Europe French|Italy Rome Europe Italian|Norway Oslo Europe Norwegian|Peru Lima America Spanish
Egypt Cairo Africa Arabic|Japan Tokyo Asia Japanese|Germany Berlin Europe German|Spain Madrid Europe Spanish
Greece Athens Europe Greek|Austria Vienna Europe German|Ireland Dublin Europe English|Czechia Prague Europe Czech
China Beijing Asia Chinese|Russia Moscow Europe Russian|Poland Warsaw Europe Polish|Portugal Lisbon Europe Portuguese
Sweden Stockholm Europe Swedish|Finland Helsinki Europe Finnish|Hungary Budapest Europe Hungarian|Turkey Ankara Asia Turkish
Iran Tehran Asia Persian|Iraq Baghdad Asia Arabic|Vietnam Hanoi Asia Vietnamese|Thailand Bangkok Asia Thai
Korea Seoul Asia Korean|Cuba Havana America Spanish|Chile Santiago America Spanish|Canada Ottawa America English
Kenya Nairobi Africa Swahili|Ghana Accra Africa English|Tunisia Tunis Africa Arabic|Libya Tripoli Africa Arabic
"""
COUNTRIES = [row.split() for line in _TABLE.strip().splitlines() for row in line.split("|")]
_ATTRIBUTES = {"capital": 1, "continent": 2, "language": 3}


def _two(rng: random.Random) -> Item:
    first, second = rng.sample(COUNTRIES, 2)
    a, b = rng.choice(list(_ATTRIBUTES)), rng.choice(list(_ATTRIBUTES))
    x, y = first[_ATTRIBUTES[a]], second[_ATTRIBUTES[b]]
    prompt = rng.choice(
        (
            f"What is the {a} of {first[0]} and the {b} of {second[0]}?",
            f"Tell me the {a} of {first[0]} and the {b} of {second[0]}.",
            f"Name the {a} of {first[0]} and also the {b} of {second[0]}.",
        )
    )
    answer = f"Here is what I know. The {a} of {first[0]} is {x}. The {b} of {second[0]} is {y}. Answer: {x} and {y}"
    return Item("facts", prompt, answer, f"{x} and {y}", ("two", first[0], a, second[0], b))


def _three(rng: random.Random) -> Item:
    rows = rng.sample(COUNTRIES, 3)
    a = rng.choice(list(_ATTRIBUTES))
    values = [row[_ATTRIBUTES[a]] for row in rows]
    names = listing([row[0] for row in rows])
    prompt = rng.choice(
        (
            f"What is the {a} of each of {names}?",
            f"Give the {a} of {names}.",
            f"For {names}, name the {a}.",
        )
    )
    steps = " ".join(f"The {a} of {row[0]} is {value}." for row, value in zip(rows, values))
    return Item(
        "facts",
        prompt,
        f"Here is what I know. {steps} Answer: {listing(values)}",
        listing(values),
        ("three", a, *(row[0] for row in rows)),
    )


def _choice(rng: random.Random) -> Item:
    rows = rng.sample(COUNTRIES, 3)
    asked = rng.choice(rows)
    options = listing([row[1] for row in rows], "or")
    prompt = rng.choice(
        (
            f"Which is the capital of {asked[0]}: {options}?",
            f"Is {options} the capital of {asked[0]}?",
            f"Choose the capital of {asked[0]} from {options}.",
        )
    )
    steps = " ".join(f"{row[1]} is the capital of {row[0]}." for row in rows)
    return Item(
        "facts",
        prompt,
        f"Here is what I know. {steps} So it is {asked[1]}. Answer: {asked[1]}",
        asked[1],
        ("choice", asked[0], *(row[0] for row in rows)),
    )


def _same(rng: random.Random) -> Item:
    a = rng.choice(("continent", "language"))
    column = _ATTRIBUTES[a]
    first = rng.choice(COUNTRIES)
    alike = rng.random() < 0.5
    pool = [row for row in COUNTRIES if row != first and (row[column] == first[column]) == alike]
    if not pool:
        return _same(rng)
    second = rng.choice(pool)
    verdict = "yes" if first[column] == second[column] else "no"
    prompt = rng.choice(
        (
            f"Do {first[0]} and {second[0]} have the same {a}?",
            f"Is the {a} of {first[0]} the same as the {a} of {second[0]}?",
            f"Do {first[0]} and {second[0]} share a {a}?",
        )
    )
    steps = f"The {a} of {first[0]} is {first[column]}. The {a} of {second[0]} is {second[column]}."
    judged = "These are the same." if verdict == "yes" else "These are not the same."
    return Item(
        "facts",
        prompt,
        f"Here is what I know. {steps} {judged} Answer: {verdict}",
        verdict,
        ("same", a, first[0], second[0]),
    )


def make(rng: random.Random) -> Item:
    """One question of the family."""
    return rng.choice((_two, _three, _choice, _same))(rng)


TASK = Task("facts", "knowledge look-up", make, same_answer, step_delimiter=".")
