"""Anything else: small talk, questions of other kinds, near misses, noise. The answer says which
kinds of question there are. What dev and test items are made of is not in training.
"""

from __future__ import annotations

import functools
import json
import random
import re
from pathlib import Path
from typing import Any

from creditdecoding.tasks.base import Item, Task
from creditdecoding.tasks.synthetic.words import LETTERS

_EVERYDAY = Path(__file__).parent / "data" / "everyday.json"
_CONSONANTS = "bcdfghjklmnpqrstvwxyz"
_VOWELS = "aeiou"
_MADE_UP = 0.3  # of the nouns in training are no words
REFUSAL = (
    "I only answer these kinds of question: facts on countries, questions on a text, numbers in "
    "all, rules, small programs, what a program prints, sums, equations, lists of names."
)


@functools.cache
def _everyday() -> dict[str, Any]:
    everyday: dict[str, Any] = json.loads(_EVERYDAY.read_text(encoding="utf-8"))
    return everyday


def _word(rng: random.Random) -> str:
    """A word that nobody knows."""
    if rng.random() < 0.2:
        return "".join(rng.choices(LETTERS, k=rng.randint(2, 9)))
    syllables = range(rng.randint(2, 4))
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in syllables)


def any_word(rng: random.Random) -> str:
    """A word of small talk in training, or one that nobody knows."""
    if rng.random() < _MADE_UP:
        return _word(rng)
    words: list[str] = _everyday()["training"][rng.choice("nvj")]
    return rng.choice(words)


def _slot(words: dict[str, list[str]], name: str, rng: random.Random) -> str:
    """What stands at a slot of a pattern: a word of the kind, a number, or a made-up word."""
    kind = "n" if name == "m" else name
    if name in "aBb":
        largest = {"a": 9, "b": 99, "B": 9999}[name]
        return str(rng.randint(101 if name == "B" else 2, largest))
    if name == "x":
        return rng.choice("xyzn")
    made_up = kind in "nhfj" and rng.random() < _MADE_UP
    if name == "w" or made_up:
        word = _word(rng)
        return word.capitalize() if kind in "hf" else word
    return rng.choice(words[kind])


def _text(words: dict[str, Any], rng: random.Random) -> str:
    """One input, made of the words."""
    if rng.random() < 0.15:
        text: str = rng.choice(words["fixed"])
    else:
        pattern = rng.choice(words["patterns"])
        text = re.sub(r"{(\w)}", lambda slot: _slot(words, slot[1], rng), pattern)
    return _loosened(text, rng)


def _loosened(text: str, rng: random.Random) -> str:
    """Sometimes without its last sign, in small letters or behind a greeting."""
    if rng.random() < 0.25:
        text = text.rstrip(".?!") or text
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.15:
        text = rng.choice(("Hi! ", "Please: ", "Question: ", "So, ", "Hello. ", "Ok. ")) + text
    return text


def make(rng: random.Random) -> Item:
    """One input that none of the kinds covers."""
    key = ("other", rng.getrandbits(40))
    item = Item("other", "", REFUSAL, REFUSAL, key)
    words = _everyday()["training" if item.split == "train" else "held_out"]
    return Item("other", _text(words, rng), REFUSAL, REFUSAL, key)


def score(text: str, item: Item) -> bool:
    """The answer is the refusal, word for word, and no more."""
    return text.strip() == REFUSAL


TASK = Task("other", "anything else", make, score, step_delimiter=".", train_weight=4)
