"""Ten operations on a waiting line of names, one task each: copy, reverse, sort, shuffle; insert,
remove and replace at a position or anywhere. (As the waiting line of ParallelBench, arXiv
2510.04767; the items are made here.)

An answer is the new line alone, so that its tokens depend on each other. Where several lines are
right, any of them scores.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from itertools import permutations
from typing import NamedTuple

from creditdecoding.tasks.base import Item, Task, final_answer
from creditdecoding.tasks.synthetic.words import PEOPLE

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
_OPEN_END = 0.2  # of the questions lack the full stop


class WaitingLine(NamedTuple):
    """A waiting line, somebody who is not in it, and a position in it, counted from 1."""

    names: tuple[str, ...]
    new: str
    position: int

    def before(self) -> tuple[str, ...]:
        """Who stands in front of the position."""
        return self.names[: self.position - 1]

    def after(self) -> tuple[str, ...]:
        """Who stands behind the position."""
        return self.names[self.position :]


class _Operation(NamedTuple):
    """What an operation does and how it is asked for; `results` are all right answers, and
    `positions` how many more positions there are than names. `train_weight` is as in `Task`.
    """

    title: str
    phrases: tuple[str, ...]
    results: Callable[[WaitingLine], Iterable[tuple[str, ...]]]
    positions: int = 0
    uses: str = ""
    train_weight: int = 1


def _inserted(line: WaitingLine) -> tuple[str, ...]:
    return (*line.before(), line.new, *line.names[line.position - 1 :])


def _removed(line: WaitingLine) -> tuple[str, ...]:
    return line.before() + line.after()


def _replaced(line: WaitingLine) -> tuple[str, ...]:
    return (*line.before(), line.new, *line.after())


def _anywhere(
    change: Callable[[WaitingLine], tuple[str, ...]], more: int = 0
) -> Callable[[WaitingLine], Iterable[tuple[str, ...]]]:
    """The change at every position."""

    def results(line: WaitingLine) -> Iterable[tuple[str, ...]]:
        last = len(line.names) + more
        return [change(line._replace(position=position)) for position in range(1, last + 1)]

    return results


_OPERATIONS = {
    "copy": _Operation(
        "copying a list",
        (
            "Copy the line: {line}.",
            "Copy this list: {line}.",
            "Line: {line}. Copy it.",
            "Give me the list {line} again as it is.",
        ),
        lambda line: [line.names],
    ),
    "reverse": _Operation(
        "reversing a list",
        (
            "Reverse the line: {line}.",
            "Reverse this list: {line}.",
            "Line: {line}. Reverse it.",
            "Give me the list {line} from the end to the start.",
        ),
        lambda line: [line.names[::-1]],
    ),
    "sort": _Operation(
        "sorting a list",
        (
            "Sort the line: {line}.",
            "Sort this list by name: {line}.",
            "Line: {line}. Sort it by name.",
            "Give me the list {line} sorted from A to Z.",
        ),
        lambda line: [tuple(sorted(line.names))],
        train_weight=4,
    ),
    "shuffle": _Operation(
        "shuffling a list",
        (
            "Shuffle the line: {line}.",
            "Shuffle this list: {line}.",
            "Line: {line}. Shuffle it.",
            "Give me the list {line} in another order.",
        ),
        lambda line: [names for names in permutations(line.names) if names != line.names],
        train_weight=4,
    ),
    "insert-index": _Operation(
        "inserting at a position of a list",
        (
            "Insert {new} at position {position} of the line: {line}.",
            "Put {new} at position {position} of this list: {line}.",
            "Line: {line}. Insert {new} at position {position}.",
            "Line: {line}. Let {new} be number {position} of the line.",
        ),
        lambda line: [_inserted(line)],
        positions=1,
        uses="new position",
        train_weight=4,
    ),
    "insert-random": _Operation(
        "inserting anywhere into a list",
        (
            "Insert {new} anywhere into the line: {line}.",
            "Put {new} at any position of this list: {line}.",
            "Line: {line}. Insert {new} anywhere.",
            "Line: {line}. Let {new} in at a random position.",
        ),
        _anywhere(_inserted, more=1),
        positions=1,
        uses="new",
        train_weight=4,
    ),
    "remove-index": _Operation(
        "removing at a position of a list",
        (
            "Remove position {position} of the line: {line}.",
            "Remove number {position} of this list: {line}.",
            "Line: {line}. Remove the {ordinal} name.",
            "Line: {line}. Take away who is at position {position}.",
        ),
        lambda line: [_removed(line)],
        uses="position",
        train_weight=2,
    ),
    "remove-random": _Operation(
        "removing anyone from a list",
        (
            "Remove any one of the line: {line}.",
            "Remove one name of this list: {line}.",
            "Line: {line}. Remove a random name.",
            "Line: {line}. Take away one of them.",
        ),
        _anywhere(_removed),
    ),
    "replace-index": _Operation(
        "replacing at a position of a list",
        (
            "Replace position {position} of the line by {new}: {line}.",
            "Replace number {position} of this list by {new}: {line}.",
            "Line: {line}. Replace the {ordinal} name by {new}.",
            "Line: {line}. Let {new} take the place of number {position}.",
        ),
        lambda line: [_replaced(line)],
        uses="new position",
        train_weight=2,
    ),
    "replace-random": _Operation(
        "replacing anyone in a list",
        (
            "Replace any one of the line by {new}: {line}.",
            "Replace one name of this list by {new}: {line}.",
            "Line: {line}. Replace a random name by {new}.",
            "Line: {line}. Let {new} take the place of one of them.",
        ),
        _anywhere(_replaced),
        uses="new",
        train_weight=4,
    ),
}


def _shuffled(names: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """The names in another order than they stand."""
    order = names
    while order == names:
        order = tuple(rng.sample(names, len(names)))
    return order


def _make(kind: str, rng: random.Random) -> Item:
    """An item of one operation."""
    operation = _OPERATIONS[kind]
    *names, new = rng.sample(PEOPLE, rng.randint(3, 6) + 1)
    position = rng.randint(1, len(names) + operation.positions)
    line = WaitingLine(tuple(names), new, position)
    prompt = rng.choice(operation.phrases).format(
        line=", ".join(names),
        new=new,
        position=position,
        ordinal=_ORDINALS[min(position, 6) - 1],
    )
    if rng.random() < _OPEN_END:
        prompt = prompt[:-1]
    shuffles = kind == "shuffle"
    result = _shuffled(line.names, rng) if shuffles else rng.choice([*operation.results(line)])
    used = [getattr(line, field) for field in operation.uses.split()]
    answer = f"Answer: {', '.join(result)}"
    return Item(f"list-{kind}", prompt, answer, line, (*names, *used))


def _score(kind: str, text: str, item: Item) -> bool:
    """Whether the final answer is one of the right lines."""
    answer = final_answer(text)
    if answer is None:
        return False
    names = tuple(name.strip() for name in answer.split(","))
    results = _OPERATIONS[kind].results(WaitingLine(*item.gold))
    return names in [tuple(name.lower() for name in result) for result in results]


def _right_answers(kind: str, item: Item) -> list[str]:
    """All right answers."""
    results = _OPERATIONS[kind].results(WaitingLine(*item.gold))
    return [f"Answer: {', '.join(names)}" for names in results]


LIST_TASKS: dict[str, Task] = {
    f"list-{kind}": Task(
        f"list-{kind}",
        operation.title,
        partial(_make, kind),
        partial(_score, kind),
        right_answers=partial(_right_answers, kind),
        train_weight=operation.train_weight,
    )
    for kind, operation in _OPERATIONS.items()
}
"""The ten operations, by name."""
