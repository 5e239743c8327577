"""Span extraction: read a passage up to the sentence that answers and give the span, or say it is
not there. (As SQuAD 2.0.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import ANIMALS, CITIES, COLOURS, PEOPLE

_STYLES = (
    "{n} lives in {c} and has a {p}.",
    "In {c} lives {n} with a {p}.",
    "{n} from {c} keeps a {p}.",
)


@dataclass(frozen=True)
class _People:
    """Sentences on people: a name, a city and a pet each, and the name of somebody absent."""

    names: list[str]
    cities: list[str]
    pets: list[str]
    sentences: list[str]
    absent: str


def _passage(rng: random.Random) -> _People:
    count = rng.choice((2, 3, 3))
    *names, absent = rng.sample(PEOPLE, count + 1)
    cities = rng.sample(CITIES, count)
    pets = rng.sample([f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS], count)
    style = rng.choice(_STYLES)
    sentences = [style.format(n=n, c=c, p=p) for n, c, p in zip(names, cities, pets)]
    return _People(names, cities, pets, sentences, absent)


def make(rng: random.Random) -> Item:
    """One passage of two or three sentences with a question."""
    passage = _passage(rng)
    names, cities = passage.names, passage.cities
    pets = passage.pets
    target = rng.randrange(len(names))
    kind = rng.choice(("where", "what", "who lives", "who has", "nobody"))
    if kind == "nobody":
        subject, gold = passage.absent, "unknown"
        question = _question_about(rng, subject)
        column, read_sentences = names, passage.sentences
        key: tuple[object, ...] = (*names, subject)
    else:
        key = names[target], cities[target], pets[target]
        question = _questions(rng, *key)[kind]
        gold = {"where": cities[target], "what": pets[target]}.get(kind, names[target])
        column = {"who lives": cities, "who has": pets}.get(kind, names)
        subject, read_sentences = column[target], passage.sentences[: target + 1]
    steps = [_reading(sentence, n, subject) for sentence, n in zip(read_sentences, column)]
    prompt = " ".join([*passage.sentences, question])
    answer = f"I read the text and look for {subject}. {' '.join(steps)} Answer: {gold}"
    return Item("span", prompt, answer, gold, key)


def _reading(sentence: str, candidate: str, subject: str) -> str:
    """The step of a worked answer that reads a sentence."""
    return f"{sentence[:-1]}: {candidate} or {subject}? {'yes' if candidate == subject else 'no'}."


def _questions(rng: random.Random, name: str, city: str, pet: str) -> dict[str, str]:
    """A question of each kind. All are drawn though only one is used, so that the items of a seed
    stay those of the published numbers.
    """
    return {
        "where": rng.choice((f"Where does {name} live?", f"In which city is {name}?")),
        "what": rng.choice((f"Which animal does {name} have?", f"What pet belongs to {name}?")),
        "who lives": rng.choice((f"Who lives in {city}?", f"Who is in {city}?")),
        "who has": rng.choice((f"Who has the {pet}?", f"Whose pet is the {pet}?")),
    }


def _question_about(rng: random.Random, name: str) -> str:
    """A question about somebody who is not in the passage."""
    return rng.choice(
        (
            f"Where does {name} live?",
            f"In which city is {name}?",
            f"Which animal does {name} have?",
        )
    )


TASK = Task("span", "span extraction", make, same_answer, step_delimiter=".", train_weight=3)
