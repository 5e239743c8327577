"""Operations on lists of 6 to 8 words; the adapter `smol` was trained on 3 to 6.

A sampled answer is right less than half of the time, so a search has something to gain:
`--tasks experiments/smol/longer_lists.py`. The steps are the words of an answer.
"""

from __future__ import annotations

import random

from creditdecoding.tasks.base import Item, Task
from experiments.smol.lists import OPERATIONS, POOLS, WordList, filled, is_right

SHORTEST, LONGEST = 6, 8
_LARGE_POOLS = [pool for pool in POOLS if len(pool) > LONGEST]


def _draw(rng: random.Random) -> WordList:
    *words, new = rng.sample(rng.choice(_LARGE_POOLS), rng.randint(SHORTEST, LONGEST) + 1)
    index = rng.randrange(len(words))
    other = rng.choice([word for word in words if word != words[index]])
    return WordList(words, index, other, new, rng.sample(rng.choice(_LARGE_POOLS), 2))


def _make(rng: random.Random) -> Item:
    """A question whose answer is a list."""
    line = _draw(rng)
    answer: str | list[str] = ""
    while isinstance(answer, str):
        phrases, answer_of = rng.choice(OPERATIONS)
        answer = answer_of(line)
    gold = ", ".join(answer)
    question = filled(rng.choice(phrases), line)
    return Item(NAME, question, gold, gold, (question,))


NAME = "longer-lists"
TASK = Task(NAME, "operations on longer lists of words", _make, is_right, step_delimiter=",")
