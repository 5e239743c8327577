"""What a task is: items with a prompt, a worked reference answer, a structure key, and a scorer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from creditdecoding.errors import OptionError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

_DRAWS_PER_ITEM = 2000
_MORE_ITEMS = 100
"""After so many times `_DRAWS_PER_ITEM` draws without another item, a task has no more."""


NO_ANSWER = "no reference answer"
"""The `gold` of open text, which has no right answers."""


@dataclass(frozen=True)
class Item:
    """One question of the task called `task`. `answer` is a worked reference answer, `gold` what
    the scorer compares with (`NO_ANSWER` for open text); `key` is the structure that decides the
    split. A question of another task in other words has the split that it has there: `split_as` is
    that task's name.
    """

    task: str
    prompt: str
    answer: str
    gold: Any
    key: tuple[Any, ...]
    split_as: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is open text, which no scorer judges."""
        return bool(self.gold == NO_ANSWER)

    @property
    def split(self) -> Split:
        """The split by a hash of the structure, not of the wording: 10% test, 5% dev, 85% train."""
        structure = self.split_as or self.task, self.key
        digest = hashlib.blake2b(repr(structure).encode(), digest_size=8).digest()
        bucket = int.from_bytes(digest, "big") % 20
        if bucket < 2:
            return "test"
        return "dev" if bucket == 2 else "train"


@dataclass(frozen=True)
class Task:
    """How items are made and scored.

    - `make` generates an item; `fixed_items` are items that were published instead.
    - `score` is right or wrong; `partial_credit`, if there is one, is from 0 to 1.
    - `step_delimiter` ends a step of a worked answer; "" if answers have no steps.
    - `train_weight` is how often training draws from the task, relative to the others.
    - `extract_answer` reads from a text what a vote among several counts; by default that is
      `final_answer`, else the whole text.
    - `right_answers` lists all right answers of an item, if they can be enumerated and are equally
      likely in training.
    - `metadata` goes into reports.
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
    right_answers: Callable[[Item], list[str]] | None = None


class DefaultLimit(int):
    """A limit that the user did not set: all items are taken from a task that has fewer."""


def generate_items(task: Task, split: Split, seed: int) -> Iterator[Item]:
    """Endless items of one split, the same for the same seed."""
    return (item for item in _all_items(task, split, seed) if item.split == split)


def _all_items(task: Task, split: Split, seed: int) -> Iterator[Item]:
    rng = random.Random(f"{task.name}/{split}/{seed}")
    while True:
        yield task.make(rng)


def distinct_items(task: Task, split: Split, seed: int, limit: int) -> list[Item]:
    """`limit` items, no two of which share a structure (fewer if the task has fewer).

    Of fixed items, whatever the split, `limit` items drawn by the seed, in their order; 0 for all.
    Raises `OptionError` if there are fewer, unless the limit is a `DefaultLimit`.
    """
    if task.fixed_items is not None:
        return _draw(task.name, task.fixed_items, seed, limit)
    if limit < 1:
        raise OptionError(
            "items of this task are generated without end",
            given=task.name,
            hint="Give a limit of 1 or more.",
        )
    by_key: dict[tuple[Any, ...], Item] = {}
    for draws, item in enumerate(_all_items(task, split, seed)):
        if len(by_key) == limit or draws == _DRAWS_PER_ITEM * min(limit, len(by_key) + _MORE_ITEMS):
            break
        if item.split == split:
            by_key.setdefault(item.key, item)
    return list(by_key.values())


def only_split(tasks: Sequence[Task], split: Split) -> list[Task]:
    """The tasks, of fixed items only those in a split; a task without any is left out."""
    kept = []
    for task in tasks:
        if task.fixed_items is None:
            kept.append(task)
            continue
        items = tuple(item for item in task.fixed_items if item.split == split)
        if items:
            kept.append(replace(task, fixed_items=items))
    return kept


def _draw(name: str, items: tuple[Item, ...], seed: int, limit: int) -> list[Item]:
    if isinstance(limit, DefaultLimit):
        limit = min(limit, len(items))
    if limit > len(items):
        raise OptionError(
            f"the limit is larger than {name}",
            given=limit,
            allowed=f"at most {len(items)}",
            hint="Ask for fewer items, or for all with a limit of 0.",
        )
    indices = random.Random(f"{name}/{seed}").sample(range(len(items)), limit or len(items))
    return [items[index] for index in sorted(indices)]


def items_digest(items: Iterable[Item]) -> str:
    """Twelve hex digits that identify items by their texts and gold answers, in order."""
    digest = hashlib.blake2b(digest_size=6)
    for item in items:
        digest.update(f"{(item.task, item.prompt, item.answer, item.gold)!r}\n".encode())
    return digest.hexdigest()


def final_answer(text: str) -> str | None:
    """The text after the last "Answer:", in lower case, without outer white space and final period;
    None if there is none.
    """
    _, marker, after = text.rpartition("Answer:")
    return after.split("\n")[0].strip().rstrip(".").strip().lower() if marker else None


def same_answer(text: str, item: Item) -> bool:
    """Scorer: the text's final answer equals the item's gold answer."""
    return final_answer(text) == str(item.gold).lower()
