"""Operations on a list of words, asked for in natural words. The file is a task, too, whose steps
are the words of an answer: `--tasks experiments/smol/lists.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.custom import normalize_answer

NAMES = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Ivy",
    "Jack",
    "Karen",
    "Leo",
    "Maria",
    "Nick",
    "Olivia",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Victor",
    "Wendy",
    "Zoe",
    "Omar",
    "Priya",
    "Chen",
    "Yuki",
    "Lars",
    "Nora",
]
FRUIT = [
    "apple",
    "banana",
    "cherry",
    "grape",
    "lemon",
    "mango",
    "orange",
    "peach",
    "pear",
    "plum",
    "kiwi",
    "melon",
]
ANIMALS = [
    "cat",
    "dog",
    "horse",
    "lion",
    "tiger",
    "bear",
    "wolf",
    "fox",
    "owl",
    "eagle",
    "shark",
    "whale",
    "rabbit",
    "mouse",
]
COLOURS = [
    "red",
    "blue",
    "green",
    "yellow",
    "purple",
    "orange",
    "pink",
    "brown",
    "black",
    "white",
    "gray",
]
CITIES = [
    "Paris",
    "London",
    "Berlin",
    "Madrid",
    "Rome",
    "Lisbon",
    "Vienna",
    "Oslo",
    "Tokyo",
    "Cairo",
    "Lima",
    "Boston",
    "Chicago",
    "Denver",
    "Toronto",
]
JOBS = [
    "teacher",
    "doctor",
    "nurse",
    "pilot",
    "baker",
    "farmer",
    "lawyer",
    "painter",
    "writer",
    "chef",
    "engineer",
    "driver",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
THINGS = [
    "book",
    "pen",
    "bag",
    "lamp",
    "chair",
    "phone",
    "watch",
    "clock",
    "bottle",
    "box",
    "key",
    "map",
    "coat",
    "hat",
]

POOLS = (NAMES, FRUIT, ANIMALS, COLOURS, CITIES, THINGS, DAYS)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True)
class WordList:
    """Words of one kind, one of them and its index, another of them, and a word that is not there.
    `more` are two or three words of any kind.
    """

    words: list[str]
    index: int
    other: str
    new: str
    more: list[str]

    @property
    def word(self) -> str:
        """The word at the index."""
        return self.words[self.index]

    def inserted(self, index: int) -> list[str]:
        """The words with the new one before an index."""
        return [*self.words[:index], self.new, *self.words[index:]]

    def changed(self, by: dict[str, str]) -> list[str]:
        """The words, some of them replaced."""
        return [by.get(word, word) for word in self.words]


def draw(rng: random.Random) -> WordList:
    """Three to six words, none twice."""
    *words, new = rng.sample(rng.choice(POOLS), rng.randint(3, 6) + 1)
    index = rng.randrange(len(words))
    other = rng.choice([word for word in words if word != words[index]])
    return WordList(words, index, other, new, rng.sample(rng.choice(POOLS), rng.randint(2, 3)))


Answer = Callable[[WordList], "str | list[str]"]

OPERATIONS: Sequence[tuple[Sequence[str], Answer]] = (
    (
        (
            "Repeat this list: {list}",
            "Copy this list exactly: {list}",
            "Write out the same list again: {list}",
        ),
        lambda it: it.words,
    ),
    (
        (
            "Reverse this list: {list}",
            "Write this list backwards: {list}",
            "List these in reverse order: {list}",
        ),
        lambda it: it.words[::-1],
    ),
    (
        ("Add {new} to the end of this list: {list}", "Append {new} to the list: {list}"),
        lambda it: [*it.words, it.new],
    ),
    (
        (
            "Put {new} at the front of this list: {list}",
            "Add {new} to the beginning of the list: {list}",
        ),
        lambda it: [it.new, *it.words],
    ),
    (
        (
            "Remove {word} from this list: {list}",
            "Delete {word} from the list: {list}",
            "Write this list without {word}: {list}",
        ),
        lambda it: [word for word in it.words if word != it.word],
    ),
    (
        (
            "Replace {word} with {new} in this list: {list}",
            "In the list {list}, change {word} to {new}.",
        ),
        lambda it: it.changed({it.word: it.new}),
    ),
    (
        ("Insert {new} after {word} in this list: {list}", "Put {new} right after {word}: {list}"),
        lambda it: it.inserted(it.index + 1),
    ),
    (
        (
            "Insert {new} before {word} in this list: {list}",
            "Put {new} right before {word}: {list}",
        ),
        lambda it: it.inserted(it.index),
    ),
    (
        ("Sort this list alphabetically: {list}", "Put these in alphabetical order: {list}"),
        lambda it: sorted(it.words),
    ),
    (
        (
            "What is the {ordinal} item of this list: {list}?",
            "Which one is {ordinal} in this list: {list}?",
        ),
        lambda it: it.word,
    ),
    (
        ("How many items are in this list: {list}?", "Count the items: {list}"),
        lambda it: str(len(it.words)),
    ),
    (("What comes after {first} in this list: {list}?",), lambda it: it.words[1]),
    (("What is the last item of this list: {list}?",), lambda it: it.words[-1]),
    (("Is {word} in this list: {list}?",), lambda it: "Yes"),
    (("Is {new} in this list: {list}?",), lambda it: "No"),
    (
        ("Swap {word} and {other} in this list: {list}",),
        lambda it: it.changed({it.word: it.other, it.other: it.word}),
    ),
    (("Join these two lists: {list}; {more}",), lambda it: [*it.words, *it.more]),
)


def filled(phrase: str, line: WordList) -> str:
    """A phrase about a list, its gaps filled."""
    return phrase.format(
        list=", ".join(line.words),
        word=line.word,
        other=line.other,
        new=line.new,
        first=line.words[0],
        ordinal=ORDINALS[line.index],
        more=", ".join(line.more),
    )


def list_question(rng: random.Random) -> tuple[str, str]:
    """A question about a list, and the answer."""
    phrases, answer_of = rng.choice(OPERATIONS)
    line = draw(rng)
    question = filled(rng.choice(phrases), line)
    answer = answer_of(line)
    return question, answer if isinstance(answer, str) else ", ".join(answer)


def _item(rng: random.Random) -> Item:
    """A question; its split is train where `credit adapt` learns it."""
    question, answer = list_question(rng)
    return Item(NAME, question, answer, answer, (question,), split_as="conversation")


def is_right(text: str, item: Item) -> bool:
    """Whether a text is the answer, as `normalize_answer` compares them."""
    return normalize_answer(text) == normalize_answer(item.gold)


NAME = "word-lists"
TASK = Task(NAME, "operations on a list of words", _item, is_right, step_delimiter=",")
