"""Who waits, who runs and who shares a pass: queue and cost arithmetic on plain numbers.

First come, first served. A request that does not fit into memory yet may be passed by smaller ones, a bounded number of times. Rows that
run are dealt into passes of similar width, because a pass costs its widest row times its rows, and a row that computes its whole
canvas should not make others, who compute a block, as wide as itself.

Leaves to others: running passes (engine.py), what a row computes and needs (canvas.py, models/memory.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Need:
    """What a row takes while it runs: places in the cache, positions a place must have, other bytes; `keeps` whether it uses a cache."""

    slots: int
    columns: int
    working: int
    keeps: bool


@dataclass(frozen=True)
class Budget:
    """What all rows together may take: `rows` at a time and `most` bytes (None: unknown, not held to); `column` bytes a cached position."""

    rows: int
    most: int | None
    column: int

    def shape(self, needs: Sequence[Need]) -> tuple[int, int]:
        """Places and positions of the cache these rows share: none unless one of them keeps something, as wide as the longest."""
        if not any(need.keeps for need in needs):
            return 0, 0
        return sum(need.slots for need in needs), max(need.columns for need in needs)

    def taken(self, needs: Sequence[Need], shape: tuple[int, int] = (0, 0)) -> int:
        """Bytes that these rows take together, in a cache that has at least this shape."""
        slots, columns = map(max, self.shape(needs), shape)
        return slots * (columns + 1) * self.column + sum(need.working for need in needs)

    def fits(self, needs: Sequence[Need], shape: tuple[int, int] = (0, 0)) -> bool:
        """Whether these rows can run together."""
        return len(needs) <= self.rows and (self.most is None or self.taken(needs, shape) <= self.most)


@dataclass
class Waiting(Generic[T]):
    """The queue: `items` in order of arrival with what they need, and how often the first has been passed."""

    overtakes: int
    items: list[tuple[T, Need]]
    passed: int = 0

    def admit(self, running: Iterable[Need], budget: Budget) -> list[tuple[T, Need]]:
        """Take out what fits beside `running`, in order; the first that does not fit is passed at most `overtakes` times in all."""
        needs = list(running)
        taken: list[tuple[T, Need]] = []
        left: list[tuple[T, Need]] = []
        for place, (item, need) in enumerate(self.items):
            behind = bool(left)
            full = len(needs) >= budget.rows or (behind and self.passed >= self.overtakes)
            if full:
                left += self.items[place:]
                break
            if budget.fits([*needs, need]):
                self.passed = self.passed + 1 if behind else 0
                needs.append(need)
                taken.append((item, need))
            else:
                left.append((item, need))
        self.items = left
        return taken

    def remove(self, wanted: Callable[[T], bool]) -> bool:
        """Take out the first item that is wanted; whether there was one."""
        at = next((i for i, (item, _) in enumerate(self.items) if wanted(item)), None)
        if at is None:
            return False
        self.passed = 0 if at == 0 else self.passed
        del self.items[at]
        return True


@dataclass(frozen=True)
class Work:
    """What a row adds to its next pass: `sequences` (two under guidance) of `width` positions and as many tokens `beside` the text."""

    width: int
    sequences: int = 1
    beside: int = 0

    @property
    def positions(self) -> int:
        """What it computes for itself."""
        return (self.width + self.beside) * self.sequences


def size(works: Sequence[Work]) -> int:
    """Positions of a pass that these rows share, padding included: each is as wide as the widest."""
    columns = max(work.width for work in works) + max(work.beside for work in works)
    return columns * sum(work.sequences for work in works)


def deal(works: Sequence[Work], fixed: int, most: int | None = None) -> list[list[int]]:
    """Indices of `works` in passes, narrowest first, so that the cost is least; a pass has at most `most` positions or a single row.

    A pass costs its size and `fixed` positions more for being a pass. The best way is a cut of the rows in order of width
    (nearly the best, where some have tokens beside the text); the order of arrival is kept inside a pass.
    """
    order = sorted(range(len(works)), key=lambda i: (works[i].width + works[i].beside, works[i].beside))
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first n rows, where their last pass begins
    for end in range(1, len(order) + 1):
        found = []
        for start in range(end - 1, -1, -1):
            positions = size([works[i] for i in order[start:end]])
            if most is not None and positions > most and start < end - 1:
                break
            found.append((best[start][0] + fixed + positions, start))
        best.append(min(found))
    passes: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        passes.insert(0, sorted(order[start:end]))
        end = start
    return passes
