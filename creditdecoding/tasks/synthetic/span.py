"""Span extraction: read a passage up to the sentence that answers and give the span, or say it is
not there. (As SQuAD 2.0.)
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import ANIMALS, CITIES, COLOURS, PEOPLE

_STYLES = (
    "{n} lives in {c} and has a {p}.",
    "In {c} lives {n} with a {p}.",
    "{n} from {c} keeps a {p}.",
)


def make(rng: random.Random) -> Item:
    """One passage of two or three sentences with a question."""
    count = rng.choice((2, 3, 3))
    names, cities = rng.sample(PEOPLE, count + 1), rng.sample(CITIES, count)
    pets = rng.sample([f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS], count)
    style = rng.choice(_STYLES)
    sentences = [style.format(n=n, c=c, p=p) for n, c, p in zip(names, cities, pets)]
    target = rng.randrange(count)
    kind = rng.choice(("where", "what", "who lives", "who has", "nobody"))
    if kind == "nobody":
        subject, gold = names[count], "unknown"
        question = _question_about(rng, subject)
        read = [f"{sentence[:-1]}: {n} or {subject}? no." for sentence, n in zip(sentences, names)]
        key: tuple[object, ...] = tuple(names)
    else:
        name, city, pet = names[target], cities[target], pets[target]
        question = _questions(rng, name, city, pet)[kind]
        gold = {"where": city, "what": pet}.get(kind, name)
        column = {"who lives": cities, "who has": pets}.get(kind, names)
        subject = column[target]
        read = [f"{sentences[i][:-1]}: {column[i]} or {subject}? no." for i in range(target)]
        read.append(f"{sentences[target][:-1]}: {subject} or {subject}? yes.")
        key = (name, city, pet)
    prompt = " ".join([*sentences, question])
    answer = f"I read the text and look for {subject}. {' '.join(read)} Answer: {gold}"
    return Item("span", prompt, answer, gold, key)


def _questions(rng: random.Random, name: str, city: str, pet: str) -> dict[str, str]:
    """A question of each kind. All are drawn, though one is used: the items of a seed stay what they
    were when the published numbers were measured.
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
