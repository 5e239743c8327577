"""Words that the synthetic tasks share."""

PEOPLE = [
    "Tom",
    "Sam",
    "Ann",
    "Mia",
    "Leo",
    "Eva",
    "Max",
    "Zoe",
    "Ben",
    "Ida",
    "Kai",
    "Lea",
    "Jon",
    "Amy",
    "Rob",
    "Sue",
    "Dan",
    "Kim",
    "Pia",
    "Ned",
]
THINGS = [
    "apples",
    "nuts",
    "books",
    "coins",
    "cards",
    "shells",
    "stamps",
    "pens",
    "eggs",
    "plums",
    "cakes",
    "balls",
]
ANIMALS = ["cat", "dog", "bird", "fish", "horse", "mouse", "duck", "goat", "snake", "frog"]
COLOURS = ["red", "blue", "green", "white", "black", "brown", "grey", "yellow"]
CITIES = [
    "Paris",
    "Rome",
    "Oslo",
    "Lima",
    "Cairo",
    "Tokyo",
    "Berlin",
    "Madrid",
    "Athens",
    "Vienna",
    "Dublin",
    "Prague",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def listing(parts: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"
