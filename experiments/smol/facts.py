"""Everyday facts."""

from __future__ import annotations

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Norway": "Oslo",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "England": "London",
    "Russia": "Moscow",
    "China": "Beijing",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Ireland": "Dublin",
    "Canada": "Ottawa",
    "India": "New Delhi",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
    "Turkey": "Ankara",
    "Hungary": "Budapest",
    "Thailand": "Bangkok",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Australia": "Canberra",
    "South Korea": "Seoul",
}
OPPOSITES = (
    "hot cold, big small, up down, fast slow, old young, happy sad, light dark, hard soft, "
    "wet dry, full empty, open closed, early late, good bad, long short, high low, rich poor, "
    "strong weak, loud quiet, clean dirty, near far"
)
PLURALS = (
    "cat cats, dog dogs, child children, mouse mice, man men, woman women, foot feet, tooth teeth, "
    "box boxes, city cities, baby babies, leaf leaves, book books, fox foxes, sheep sheep, "
    "fish fish"
)
SOUNDS = (
    "dog barks, cat meows, cow moos, lion roars, duck quacks, owl hoots, horse neighs, sheep bleats"
)
COLOUR_OF = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "a banana": "yellow",
    "coal": "black",
    "a tomato": "red",
    "an orange": "orange",
    "milk": "white",
}


def pairs(text: str) -> list[tuple[str, str]]:
    """The pairs of a text like "hot cold, big small"."""
    return [tuple(part.split()) for part in text.split(", ")]  # type: ignore[misc]
