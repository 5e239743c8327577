"""Noise in the words of training questions: a word that says little is left out, is another, or has
one more before it. A model that met this answers a question whose wording it never saw.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

WEAK_WORDS = frozenset(
    (
        *("what", "which", "what's", "is", "are", "do", "does", "has", "have", "can", "could"),
        *("the", "a", "of", "to", "for", "in", "at", "that", "this", "it", "i", "you", "me"),
        *("tell", "give", "name", "find", "say", "know", "want", "need", "please", "here"),
        *("compute", "calculate", "solve", "take", "let", "apply", "use"),
        *("write", "make", "define", "run"),
    )
)
"""Words of a question that may go without changing its answer."""
NOISY_PHRASES = 0.35
NOISY_STARTS = 0.15
_SIGNS = (": ", ". ", "! ", ", ", "? ")

Words = Callable[[random.Random], str]
"""Draws a word."""


def noisy_phrase(phrase: str, never: Collection[str], words: Words, rng: random.Random) -> str:
    """The phrase, sometimes with one or two of its weak words changed. Slots like `{n}` stay, and
    it becomes none of the phrases `never`.
    """
    if rng.random() >= NOISY_PHRASES:
        return phrase
    changed = phrase.split(" ")
    for _ in range(rng.randint(1, 2)):
        weak = [index for index, word in enumerate(changed) if word.lower() in WEAK_WORDS]
        if weak:
            _change(changed, rng.choice(weak), words, rng)
    text = " ".join(changed)
    text = text[:1].upper() + text[1:]
    return phrase if not text or text in never else text


def _change(changed: list[str], index: int, words: Words, rng: random.Random) -> None:
    """Leave out the word at a place, or put another one there or before it."""
    way = rng.random()
    if way < 0.25:
        del changed[index]
    elif way < 0.65:
        changed[index] = words(rng)
    else:
        changed.insert(index, words(rng))


def noisy_start(question: str, words: Words, rng: random.Random) -> str:
    """The question, sometimes behind one to three words that have nothing to do with it."""
    if rng.random() >= NOISY_STARTS:
        return question
    start = " ".join(words(rng) for _ in range(rng.randint(1, 3)))
    return start.capitalize() + rng.choice(_SIGNS) + question
