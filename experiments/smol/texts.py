"""Short texts: facts to extract from them, sentences to rewrite, and everyday questions."""

from __future__ import annotations

import random
from collections.abc import Callable

from experiments.smol.facts import CAPITALS, COLOUR_OF, OPPOSITES, PLURALS, SOUNDS, pairs
from experiments.smol.lists import ANIMALS, CITIES, COLOURS, DAYS, JOBS, NAMES, THINGS

Pair = tuple[str, str]
"""A question and its answer."""

TEXTS = (
    "{name} is a {age}-year-old {job} who lives in {city}.",
    "On {day}, {name} bought {number} {item} in {city}.",
    "The {job} {name} moved from {city} last {day} and is now {age}.",
    "Please call {name} at {phone} before {day}.",
    "The meeting with {name} is on {day} at {time} in room {room}.",
    "{name} works as a {job}. The office is in {city}, and {name} was there for {years} years.",
)
QUESTIONS = {
    "name": "Who is it about?",
    "age": "How old is the person?",
    "job": "What is the job?",
    "city": "Which city is named?",
    "day": "On which day?",
    "number": "How many?",
    "item": "What was bought?",
    "years": "For how many years?",
    "phone": "What is the phone number?",
    "time": "At what time?",
    "room": "Which room?",
}


def extraction(rng: random.Random) -> Pair:
    """A text, and one or two things to read from it."""
    values = {
        "name": rng.choice(NAMES),
        "age": str(rng.randint(18, 80)),
        "job": rng.choice(JOBS),
        "city": rng.choice(CITIES),
        "day": rng.choice(DAYS),
        "number": str(rng.randint(2, 99)),
        "item": f"{rng.choice([thing for thing in THINGS if thing[-1] not in 'hx'])}s",
        "years": str(rng.randint(2, 40)),
        "phone": f"555-{rng.randint(1000, 9999)}",
        "time": f"{rng.randint(1, 12)} pm",
        "room": str(rng.randint(2, 99)),
    }
    template = rng.choice(TEXTS)
    text = template.format(**values)
    first, second = rng.sample([name for name in values if f"{{{name}}}" in template], 2)
    form = rng.randrange(3)
    if form == 0:
        return f"{text} {QUESTIONS[first]}", values[first]
    if form == 1:
        question = f"Extract the {first} and the {second} from this text: {text}"
        lines = (f"{name.capitalize()}: {values[name]}" for name in (first, second))
        return question, "\n".join(lines)
    order = f"Read the text and answer in one word or number. Text: {text}"
    return f"{order} Question: {QUESTIONS[first]}", values[first]


SENTENCES = (
    "{name} has a {colour} {thing}.",
    "The {animal} likes the {colour} {thing}.",
    "{name} found a {thing} in {city}.",
    "My friend {name} lives in {city}.",
    "The {colour} {animal} sleeps near the {thing}.",
    "{name} gave the {thing} to {friend}.",
)
POOLS = {
    "name": NAMES,
    "colour": COLOURS,
    "thing": THINGS,
    "animal": ANIMALS,
    "city": CITIES,
}
REWRITES: tuple[tuple[tuple[str, ...], Callable[[str], str]], ...] = (
    (("Write this sentence in capital letters: {}", "Make this uppercase: {}"), str.upper),
    (("Write this sentence in lower case: {}", "Make this lowercase: {}"), str.lower),
    (("Repeat this sentence: {}", "Copy this sentence: {}"), str),
    (
        ("Write the words of this sentence in reverse order: {}",),
        lambda text: " ".join(text.rstrip(".").split()[::-1]),
    ),
    (("How many words are in this sentence: {}",), lambda text: str(len(text.split()))),
)


def rewriting(rng: random.Random) -> Pair:
    """A sentence, and how to rewrite it."""
    template = rng.choice(SENTENCES)
    words = {kind: rng.choice(pool) for kind, pool in POOLS.items()}
    friend = rng.choice([name for name in NAMES if name != words["name"]])
    sentence = template.format(**words, friend=friend)
    if rng.randrange(len(REWRITES) + 1) == 0:
        kind = rng.choice([kind for kind in POOLS if f"{{{kind}}}" in template])
        old = words[kind]
        new = rng.choice([word for word in POOLS[kind] if word not in sentence])
        return f"Change {old} to {new}: {sentence}", sentence.replace(old, new, 1)
    phrases, rewrite = rng.choice(REWRITES)
    return rng.choice(phrases).format(sentence), rewrite(sentence)


def _capital(rng: random.Random) -> Pair:
    country, capital = rng.choice(list(CAPITALS.items()))
    phrases = (
        "What is the capital of {}?",
        "Name the capital of {}.",
        "Which city is the capital of {}?",
    )
    return rng.choice(phrases).format(country), f"The capital of {country} is {capital}."


def _country(rng: random.Random) -> Pair:
    country, capital = rng.choice(list(CAPITALS.items()))
    question = f"{capital} is the capital of which country?"
    return question, f"{capital} is the capital of {country}."


def _opposite(rng: random.Random) -> Pair:
    word, other = rng.sample(rng.choice(pairs(OPPOSITES)), 2)
    phrases = ("What is the opposite of {}?", "What's the opposite of {}?")
    return rng.choice(phrases).format(word), f"The opposite of {word} is {other}."


def _plural(rng: random.Random) -> Pair:
    one, many = rng.choice(pairs(PLURALS))
    return f"What is the plural of {one}?", f"The plural of {one} is {many}."


def _sound(rng: random.Random) -> Pair:
    animal, sound = rng.choice(pairs(SOUNDS))
    article = "An" if animal[0] in "aeiou" else "A"
    return f"What sound does {article.lower()} {animal} make?", f"{article} {animal} {sound}."


def _colour(rng: random.Random) -> Pair:
    thing, colour = rng.choice(list(COLOUR_OF.items()))
    return f"What color is {thing}?", f"{thing[0].upper()}{thing[1:]} is {colour}."


def _day(rng: random.Random) -> Pair:
    number = rng.randrange(7)
    day, following = DAYS[number], DAYS[(number + 1) % 7]
    phrases = ("What day comes after {}?", "Which day is after {}?")
    return rng.choice(phrases).format(day), f"{following} comes after {day}."


def _sum(rng: random.Random) -> Pair:
    one, other = rng.randint(0, 12), rng.randint(0, 12)
    phrases = ("What is {} plus {}?", "What is {} + {}?")
    return rng.choice(phrases).format(one, other), f"{one} plus {other} is {one + other}."


def _difference(rng: random.Random) -> Pair:
    whole = rng.randint(2, 20)
    part = rng.randint(0, whole)
    phrases = ("What is {} minus {}?", "{} - {} = ?")
    return rng.choice(phrases).format(whole, part), f"{whole} minus {part} is {whole - part}."


FACTS = (_capital, _country, _opposite, _plural, _sound, _colour, _day, _sum, _difference)


def everyday(rng: random.Random) -> Pair:
    """An everyday question of one fact, answered in a sentence."""
    return rng.choice(FACTS)(rng)
