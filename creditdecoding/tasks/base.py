"""What a task is: items with a prompt, a worked reference answer, a structure key, and a scorer.

Leaves to others: running models over items (eval/), turning items into training rows (train/).
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Item:
    """One question. `gold` is what the scorer compares with; `key` is the structure that decides the split."""

    family: str
    prompt: str
    answer: str
    gold: Any
    key: tuple[Any, ...]

    @property
    def split(self) -> Split:
        """Split by a hash of the structure, never of the wording: 10% test, 5% dev, the rest train."""
        digest = hashlib.blake2b(repr((self.family, self.key)).encode(), digest_size=8).digest()
        bucket = int.from_bytes(digest, "big") % 20
        return "test" if bucket < 2 else "dev" if bucket == 2 else "train"


@dataclass(frozen=True)
class Family:
    """A task family: how items are made and scored.

    `delimiter` ends a step of a worked answer; `share` is how often training draws from it, relative to the others.
    """

    name: str
    title: str
    make: Callable[[random.Random], Item]
    score: Callable[[str, Item], bool]
    delimiter: str = "."
    share: int = 1


def items(family: Family, split: Split, seed: int) -> Iterator[Item]:
    """Endless items of one split, the same for the same seed."""
    return (item for item in _all_items(family, split, seed) if item.split == split)


def _all_items(family: Family, split: Split, seed: int) -> Iterator[Item]:
    rng = random.Random(f"{family.name}/{split}/{seed}")
    while True:
        yield family.make(rng)


def distinct_items(family: Family, split: Split, seed: int, limit: int) -> list[Item]:
    """`limit` items no two of which share a structure (fewer if the family has fewer)."""
    chosen: dict[tuple[Any, ...], Item] = {}
    for item in itertools.islice(_all_items(family, split, seed), 2000 * limit):
        if len(chosen) == limit:
            break
        if item.split == split:
            chosen.setdefault(item.key, item)
    return list(chosen.values())


def final_answer(text: str) -> str | None:
    """What follows the last "Answer:", without case, outer white space and final period; None where it is missing."""
    _, marker, after = text.rpartition("Answer:")
    return after.split("\n")[0].strip().rstrip(".").strip().lower() if marker else None


def same_answer(text: str, item: Item) -> bool:
    """Scorer: the text's final answer equals the item's gold answer."""
    return final_answer(text) == str(item.gold).lower()
