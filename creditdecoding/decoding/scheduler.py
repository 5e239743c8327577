"""Who waits, who runs and who shares a pass: queue and cost arithmetic on plain numbers.

First come, first served. A request that does not fit into memory yet may be passed by smaller ones,
a bounded number of times. Rows that
run are dealt into passes of similar width, because a pass costs its widest row times its rows, and
a row that computes its whole
canvas should not make others, who compute a block, as wide as itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class MemoryNeed:
    """What a row takes while it runs: places in the cache, positions a place must have, other
    bytes; `keeps` whether it uses a cache.
    """

    slots: int
    columns: int
    working: int
    keeps: bool


@dataclass(frozen=True)
class MemoryBudget:
    """What all rows together may take: `rows` at a time and `most` bytes (None: unknown, not held
    to); `column` bytes a cached position.
    """

    rows: int
    most: int | None
    column: int

    def shape(self, needs: Sequence[MemoryNeed]) -> tuple[int, int]:
        """Places and positions of the cache these rows share: none unless one of them keeps
        something, as wide as the longest.
        """
        if not any(need.keeps for need in needs):
            return 0, 0
        return sum(need.slots for need in needs), max(need.columns for need in needs)

    def taken(self, needs: Sequence[MemoryNeed], shape: tuple[int, int] = (0, 0)) -> int:
        """Bytes that these rows take together, in a cache that has at least this shape."""
        slots, columns = map(max, self.shape(needs), shape)
        return slots * (columns + 1) * self.column + sum(need.working for need in needs)

    def fits(self, needs: Sequence[MemoryNeed], shape: tuple[int, int] = (0, 0)) -> bool:
        """Whether these rows can run together."""
        return len(needs) <= self.rows and (
            self.most is None or self.taken(needs, shape) <= self.most
        )


@dataclass(frozen=True)
class WaitingItem(Generic[T]):
    """One in the queue: what it needs, and how often a later one was let in before it."""

    item: T
    need: MemoryNeed
    passed: int = 0


@dataclass
class WaitQueue(Generic[T]):
    """The queue in order of arrival; nobody is passed more than `overtakes` times."""

    overtakes: int
    line: list[WaitingItem[T]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.line)

    def add(self, item: T, need: MemoryNeed, first: bool = False) -> None:
        """Put at the end, or at the front what was let in too early."""
        self.line.insert(0 if first else len(self.line), WaitingItem(item, need))

    def admit(self, running: Iterable[MemoryNeed], budget: MemoryBudget) -> list[WaitingItem[T]]:
        """Take out what fits beside `running`, in order; later ones may pass those that do not fit."""
        needs = list(running)
        taken: list[WaitingItem[T]] = []
        left: list[WaitingItem[T]] = []
        for place, one in enumerate(self.line):
            if len(needs) >= budget.rows or any(other.passed >= self.overtakes for other in left):
                left += self.line[place:]
                break
            if budget.fits([*needs, one.need]):
                left = [replace(other, passed=other.passed + 1) for other in left]
                needs.append(one.need)
                taken.append(one)
            else:
                left.append(one)
        self.line = left
        return taken

    def remove(self, wanted: Callable[[T], bool]) -> bool:
        """Take out the first item that is wanted; whether there was one."""
        at = next((i for i, one in enumerate(self.line) if wanted(one.item)), None)
        if at is not None:
            del self.line[at]
        return at is not None


@dataclass(frozen=True)
class PassShape:
    """What a row adds to its next pass: `sequences` (two under guidance) of `width` positions and
    as many tokens `beside` the text.
    """

    width: int
    sequences: int = 1
    beside: int = 0

    @property
    def positions(self) -> int:
        """What it computes for itself."""
        return (self.width + self.beside) * self.sequences


def pass_positions(works: Sequence[PassShape]) -> int:
    """Positions of a pass that these rows share, padding included: each is as wide as the widest."""
    columns = max(work.width for work in works) + max(work.beside for work in works)
    return columns * sum(work.sequences for work in works)


def group_into_passes(
    works: Sequence[PassShape], fixed: int, most: int | None = None
) -> list[list[int]]:
    """Indices of `works` in passes, narrowest first, so that the cost is least; a pass has at most
    `most` positions or a single row.

    A pass costs its size and `fixed` positions more for being a pass. The best way is a cut of the
    rows in order of width
    (nearly the best, where some have tokens beside the text); the order of arrival is kept inside a
    pass.
    """
    order = sorted(
        range(len(works)), key=lambda i: (works[i].width + works[i].beside, works[i].beside)
    )
    rows = [(works[i].width, works[i].beside, works[i].sequences) for i in order]
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first n rows, where their last pass begins
    for end in range(1, len(order) + 1):
        least, begin, width, beside, sequences = -1, 0, 0, 0, 0
        for start in range(end - 1, -1, -1):
            wide, aside, many = rows[start]
            width, beside, sequences = (
                wide if wide > width else width,
                aside if aside > beside else beside,
                sequences + many,
            )
            cost = (
                best[start][0] + fixed + (width + beside) * sequences
            )  # the size, without walking the rows again
            if start < end - 1 and most is not None and (width + beside) * sequences > most:
                break
            if least < 0 or cost <= least:
                least, begin = cost, start
        best.append((least, begin))
    passes: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        passes.insert(0, sorted(order[start:end]))
        end = start
    return passes
