"""Span extraction: read a passage up to the sentence that answers and give the span, or say it is
not there. (As SQuAD 2.0.)
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task, same_answer
from creditdecoding.tasks.synthetic.words import ANIMALS, CITIES, COLOURS, PEOPLE


def make(rng: random.Random) -> Item:
    """One passage of two or three sentences with a question."""
    count = rng.choice((2, 3, 3))
    names, cities = rng.sample(PEOPLE, count + 1), rng.sample(CITIES, count)
    pets = rng.sample([f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS], count)
    style = rng.choice(
        (
            "{n} lives in {c} and has a {p}.",
            "In {c} lives {n} with a {p}.",
            "{n} from {c} keeps a {p}.",
        )
    )
    sentences = [style.format(n=n, c=c, p=p) for n, c, p in zip(names, cities, pets)]
    asked = rng.randrange(count)
    name, city, pet = names[asked], cities[asked], pets[asked]
    kind = rng.choice(("where", "what", "who lives", "who has", "nobody"))
    if kind == "nobody":
        about, gold = names[count], "unknown"
        question = rng.choice(
            (
                f"Where does {about} live?",
                f"In which city is {about}?",
                f"Which animal does {about} have?",
            )
        )
        key: tuple[object, ...] = tuple(names)
        read = [
            f"{sentence[:-1]}: {own} or {about}? no." for sentence, own in zip(sentences, names)
        ]
    else:
        question, gold, kept = {
            "where": (
                rng.choice((f"Where does {name} live?", f"In which city is {name}?")),
                city,
                names,
            ),
            "what": (
                rng.choice((f"Which animal does {name} have?", f"What pet belongs to {name}?")),
                pet,
                names,
            ),
            "who lives": (
                rng.choice((f"Who lives in {city}?", f"Who is in {city}?")),
                name,
                cities,
            ),
            "who has": (
                rng.choice((f"Who has the {pet}?", f"Whose pet is the {pet}?")),
                name,
                pets,
            ),
        }[kind]
        key, about = (name, city, pet), kept[asked]
        read = [
            f"{sentences[i][:-1]}: {kept[i]} or {about}? {'yes' if i == asked else 'no'}."
            for i in range(asked + 1)
        ]
    prompt = " ".join(sentences) + " " + question
    answer = f"I read the text and look for {about}. {' '.join(read)} Answer: {gold}"
    return Item("span", prompt, answer, gold, key)


TASK = Task("span", "span extraction", make, same_answer, step_delimiter=".", train_weight=3)
