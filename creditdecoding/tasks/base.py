"""What a task is: items with a prompt, a worked reference answer, a structure key, and a scorer."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from creditdecoding.errors import OptionError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Item:
    """One question. `gold` is what the scorer compares with; `key` is the structure that decides
    the split.
    """

    task: str
    prompt: str
    answer: str
    gold: Any
    key: tuple[Any, ...]

    @property
    def split(self) -> Split:
        """Split by a hash of the structure, never of the wording: 10% test, 5% dev, the rest train."""
        digest = hashlib.blake2b(repr((self.task, self.key)).encode(), digest_size=8).digest()
        bucket = int.from_bytes(digest, "big") % 20
        return "test" if bucket < 2 else "dev" if bucket == 2 else "train"


@dataclass(frozen=True)
class Task:
    """A task family: how items are made and scored.

    `delimiter` ends a step of a worked answer, "" where none does; `share` is how often training
    draws from it, relative to the others.
    Items that were published rather than made are `listed`: all are of the test split. `grade` is
    partial credit beside `score`; `about`
    goes to reports. `answer` reads from a text what a vote among several counts; without it that is
    `final_answer`, else the whole text.
    """

    name: str
    title: str
    make: Callable[[random.Random], Item]
    score: Callable[[str, Item], bool]
    step_delimiter: str = ""
    train_weight: int = 1
    partial_credit: Callable[[str, Item], float] | None = None
    fixed_items: tuple[Item, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extract_answer: Callable[[str], str | None] | None = None


def generate_items(family: Task, split: Split, seed: int) -> Iterator[Item]:
    """Endless items of one split, the same for the same seed."""
    return (item for item in _all_items(family, split, seed) if item.split == split)


def _all_items(family: Task, split: Split, seed: int) -> Iterator[Item]:
    rng = random.Random(f"{family.name}/{split}/{seed}")
    while True:
        yield family.make(rng)


class DefaultLimit(int):
    """A limit that is a default and nobody's wish: of a list that is shorter all items are taken."""


def distinct_items(family: Task, split: Split, seed: int, limit: int) -> list[Item]:
    """`limit` items no two of which share a structure (fewer if the family has fewer).

    Of a listed family `limit` items drawn by the seed, in their order, 0 for all. Raises
    `OptionError` if there are fewer, unless the
    limit is an `UpTo`.
    """
    if family.fixed_items is not None:
        return _drawn(family.name, family.fixed_items, seed, limit)
    if limit < 1:
        raise OptionError(
            "items of this family are made, so there is no end of them",
            given=family.name,
            hint="Give a limit of 1 or more.",
        )
    chosen: dict[tuple[Any, ...], Item] = {}
    for item in itertools.islice(_all_items(family, split, seed), 2000 * limit):
        if len(chosen) == limit:
            break
        if item.split == split:
            chosen.setdefault(item.key, item)
    return list(chosen.values())


def items_digest(chosen: Iterable[Item]) -> str:
    """Twelve hex digits that say which items these are: of their texts and gold answers, in order."""
    found = hashlib.blake2b(digest_size=6)
    for item in chosen:
        found.update(f"{(item.task, item.prompt, item.answer, item.gold)!r}\n".encode())
    return found.hexdigest()


def _drawn(name: str, listed: tuple[Item, ...], seed: int, limit: int) -> list[Item]:
    if isinstance(limit, DefaultLimit):
        limit = min(limit, len(listed))
    if limit > len(listed):
        what = f"the limit is larger than {name}"
        raise OptionError(
            what,
            given=limit,
            allowed=f"at most {len(listed)}",
            hint="Ask for fewer items, or for all with a limit of 0.",
        )
    chosen = random.Random(f"{name}/{seed}").sample(range(len(listed)), limit or len(listed))
    return [listed[i] for i in sorted(chosen)]


def final_answer(text: str) -> str | None:
    """What follows the last "Answer:", without case, outer white space and final period; None where
    it is missing.
    """
    _, marker, after = text.rpartition("Answer:")
    return after.split("\n")[0].strip().rstrip(".").strip().lower() if marker else None


def same_answer(text: str, item: Item) -> bool:
    """Scorer: the text's final answer equals the item's gold answer."""
    return final_answer(text) == str(item.gold).lower()
