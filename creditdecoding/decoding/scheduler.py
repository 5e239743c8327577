"""Which requests wait, which run, and which share a pass: arithmetic on plain numbers.

First come, first served. A request that does not fit into memory yet may be bypassed by smaller
ones, a bounded number of times. Running requests are grouped into passes of similar width: a pass
costs its widest row times its rows, and a request that computes its whole canvas should not make
others, which compute a block, as wide as itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

T = TypeVar("T")
KEYS_OF_A_POSITION = 2048
"""Attention to so many keys costs about as much as the rest of the network at a position: eight
times the hidden size of the small models that run on a CPU.
"""


@dataclass(frozen=True)
class MemoryNeed:
    """What a request takes while it runs: cache slots, the positions that a slot must have, and
    bytes to compute with.
    """

    slots: int
    columns: int
    working_bytes: int
    uses_cache: bool


@dataclass(frozen=True)
class MemoryBudget:
    """What all running requests together may take; `max_bytes` None is no limit."""

    max_requests: int
    max_bytes: int | None
    bytes_per_position: int

    def cache_shape(self, needs: Sequence[MemoryNeed]) -> tuple[int, int]:
        """Slots and positions of the cache that these share: (0, 0) unless one of them uses it."""
        if not any(need.uses_cache for need in needs):
            return 0, 0
        return sum(need.slots for need in needs), max(need.columns for need in needs)

    def bytes_needed(self, needs: Sequence[MemoryNeed], shape: tuple[int, int] = (0, 0)) -> int:
        """Bytes that these take together, in a cache of at least this shape."""
        slots, columns = map(max, self.cache_shape(needs), shape)
        cached = slots * (columns + 1) * self.bytes_per_position
        return cached + sum(need.working_bytes for need in needs)

    def fits(self, needs: Sequence[MemoryNeed], shape: tuple[int, int] = (0, 0)) -> bool:
        """Whether these can run together, in a cache of at least this shape."""
        if len(needs) > self.max_requests:
            return False
        return self.max_bytes is None or self.bytes_needed(needs, shape) <= self.max_bytes


@dataclass(frozen=True)
class WaitingItem(Generic[T]):
    """An item of the queue, its need, and how often a later one was admitted before it."""

    item: T
    need: MemoryNeed
    bypassed: int = 0


@dataclass
class WaitQueue(Generic[T]):
    """The queue, in order of arrival; an item is bypassed at most `max_bypass` times."""

    max_bypass: int
    items: list[WaitingItem[T]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def add(self, item: T, need: MemoryNeed, first: bool = False) -> None:
        """Append an item, or put one that was admitted too early back at the front."""
        self.items.insert(0 if first else len(self.items), WaitingItem(item, need))

    def admit(self, running: Iterable[MemoryNeed], budget: MemoryBudget) -> list[WaitingItem[T]]:
        """Take out, in order, what fits next to `running`."""
        needs = list(running)
        admitted: list[WaitingItem[T]] = []
        waiting: list[WaitingItem[T]] = []
        for item in self.items:
            is_full = len(needs) >= budget.max_requests
            if is_full or any(earlier.bypassed >= self.max_bypass for earlier in waiting):
                break
            if budget.fits([*needs, item.need]):
                waiting = [replace(earlier, bypassed=earlier.bypassed + 1) for earlier in waiting]
                needs.append(item.need)
                admitted.append(item)
            else:
                waiting.append(item)
        self.items = waiting + self.items[len(admitted) + len(waiting) :]
        return admitted

    def remove(self, matches: Callable[[T], bool]) -> bool:
        """Take out the first item that matches; whether there was one."""
        for i, waiting in enumerate(self.items):
            if matches(waiting.item):
                del self.items[i]
                return True
        return False


@dataclass(frozen=True)
class PassShape:
    """What a request adds to its next pass.

    - `width`: positions of a row; `sequences`: rows, two if the request is guided.
    - `extra_columns`: leave-one-out columns of a row, which are computed beside its positions.
    - `keys`: stored positions that a row attends to; padded rows attend to the most of a pass.
    """

    width: int
    sequences: int = 1
    extra_columns: int = 0
    keys: int = 0

    @property
    def positions(self) -> int:
        """The positions that it computes itself, without padding."""
        return (self.width + self.extra_columns) * self.sequences


def pass_positions(shapes: Sequence[PassShape]) -> int:
    """Positions of a pass of these shapes, padding included: each row is as wide as the widest."""
    width = max(shape.width for shape in shapes)
    extra_columns = max(shape.extra_columns for shape in shapes)
    return (width + extra_columns) * sum(shape.sequences for shape in shapes)


def group_into_passes(
    shapes: Sequence[PassShape], overhead: int, max_positions: int | None = None
) -> list[list[int]]:
    """Indices of `shapes` in passes of least total cost, the narrowest first.

    A pass costs its positions, each with attention to the most keys of its rows, and `overhead`
    more. It has at most `max_positions`, or a single request. The shapes, in order of width, are
    cut into passes by dynamic programming: the optimum without extra columns and keys, close to it
    with them. Inside a pass the order of arrival stays.
    """
    order = sorted(
        range(len(shapes)),
        key=lambda i: (
            shapes[i].width + shapes[i].extra_columns,
            shapes[i].extra_columns,
            shapes[i].keys,
        ),
    )
    ordered = [shapes[i] for i in order]
    costs = [0]  # of the first n shapes
    starts = [0]  # where the last pass of the first n shapes begins
    for end in range(1, len(order) + 1):
        cost, start = min(
            (costs[start] + overhead + own_cost, start)
            for start, own_cost in _last_passes(ordered, end, max_positions)
        )
        costs.append(cost)
        starts.append(start)
    passes: list[list[int]] = []
    end = len(order)
    while end:
        passes.insert(0, sorted(order[starts[end] : end]))
        end = starts[end]
    return passes


def _last_passes(
    ordered: Sequence[PassShape], end: int, max_positions: int | None
) -> Iterator[tuple[int, int]]:
    """Each pass that can end before shape `end`: where it begins, and what it costs."""
    width = 0
    extra_columns = 0
    sequences = 0
    keys = 0
    for start in range(end - 1, -1, -1):
        shape = ordered[start]
        width = max(width, shape.width)
        extra_columns = max(extra_columns, shape.extra_columns)
        sequences += shape.sequences
        keys = max(keys, shape.keys)
        positions = (width + extra_columns) * sequences
        if start < end - 1 and max_positions is not None and positions > max_positions:
            return
        yield start, positions + positions * keys // KEYS_OF_A_POSITION
