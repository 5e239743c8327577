"""Span extraction: find the sentence of a passage that answers, quote it, give the span, or say it is not there. (As SQuAD 2.0.)"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Family, Item, same_answer
from creditdecoding.tasks.pocket.words import ANIMALS, CITIES, COLOURS, PEOPLE, listing


def make(rng: random.Random) -> Item:
    """One passage of three or four sentences with a question."""
    count = rng.choice((3, 4))
    names, cities = rng.sample(PEOPLE, count + 1), rng.sample(CITIES, count)
    pets = rng.sample([f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS], count)
    style = rng.choice(("{n} lives in {c} and has a {p}.", "In {c} lives {n} with a {p}.", "{n} from {c} keeps a {p}."))
    sentences = [style.format(n=n, c=c, p=p) for n, c, p in zip(names, cities, pets)]
    asked = rng.randrange(count)
    name, city, pet = names[asked], cities[asked], pets[asked]
    kind = rng.choice(("where", "what", "who lives", "who has", "nobody"))
    if kind == "nobody":
        name = names[count]
        question = rng.choice((f"Where does {name} live?", f"In which city is {name}?", f"Which animal does {name} have?"))
        answer, gold = (
            f"The question is about {name}. The sentences name {listing(names[:count])}. They do not name {name}. Answer: unknown",
            "unknown",
        )
        key: tuple[object, ...] = tuple(names)
    else:
        question, gold, about = {
            "where": (rng.choice((f"Where does {name} live?", f"In which city is {name}?")), city, name),
            "what": (rng.choice((f"Which animal does {name} have?", f"What pet belongs to {name}?")), pet, name),
            "who lives": (rng.choice((f"Who lives in {city}?", f"Who is in {city}?")), name, city),
            "who has": (rng.choice((f"Who has the {pet}?", f"Whose pet is the {pet}?")), name, pet),
        }[kind]
        answer = f"The question is about {about}. It says: {sentences[asked]} Answer: {gold}"
        key = (name, city, pet)
    prompt = " ".join(sentences) + " " + question
    return Item("span", prompt, answer, gold, key)


FAMILY = Family("span", "span extraction", make, same_answer)
