"""Admission and grouping on plain numbers: fair, bounded, within memory, and as cheap as any other
grouping.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creditdecoding.decoding.scheduler import (
    MemoryBudget,
    MemoryNeed,
    PassShape,
    WaitQueue,
    group_into_passes,
    pass_positions,
)

FAST = settings(max_examples=100, deadline=None, database=None)
NEEDS = st.builds(
    MemoryNeed, st.integers(1, 2), st.integers(1, 9), st.integers(0, 50), st.booleans()
)
SHAPES = st.lists(
    st.builds(PassShape, st.integers(1, 40), st.integers(1, 2)), min_size=1, max_size=7
)
SMALL = MemoryNeed(slots=1, columns=1, working_bytes=10, uses_cache=False)
LARGE = MemoryNeed(slots=1, columns=1, working_bytes=90, uses_cache=False)


def queue_of(needs: list[MemoryNeed], max_bypass: int = 2) -> WaitQueue[int]:
    """A queue whose items are 0, 1, 2, ..."""
    queue = WaitQueue[int](max_bypass)
    for i, need in enumerate(needs):
        queue.add(i, need)
    return queue


def admitted(
    queue: WaitQueue[int], running: Iterable[MemoryNeed], budget: MemoryBudget
) -> list[int]:
    return [waiting.item for waiting in queue.admit(running, budget)]


def test_bytes_needed_together() -> None:
    """A cache is as wide as its longest request, in every slot, with a column for padding; without
    a request that uses it, it costs nothing.
    """
    budget = MemoryBudget(max_requests=4, max_bytes=1000, bytes_per_position=10)
    cached = MemoryNeed(slots=2, columns=7, working_bytes=5, uses_cache=True)
    plain = MemoryNeed(slots=1, columns=9, working_bytes=3, uses_cache=False)
    assert budget.bytes_needed([plain]) == 3
    assert budget.bytes_needed([cached]) == 2 * 8 * 10 + 5
    assert budget.bytes_needed([cached, plain]) == 3 * 10 * 10 + 8
    assert budget.bytes_needed([cached], shape=(4, 3)) == 4 * 8 * 10 + 5


def test_the_budget_limits_requests_and_bytes() -> None:
    need = MemoryNeed(slots=2, columns=7, working_bytes=5, uses_cache=True)
    budget = MemoryBudget(max_requests=4, max_bytes=1000, bytes_per_position=10)
    assert budget.fits([need] * 4)
    assert not budget.fits([need] * 5)
    assert not MemoryBudget(9, 164, 10).fits([need])
    assert MemoryBudget(9, None, 10).fits([need] * 9)


@FAST
@given(
    needs=st.lists(NEEDS, max_size=8),
    max_requests=st.integers(1, 5),
    max_bytes=st.integers(60, 400),
    max_bypass=st.integers(0, 3),
    data=st.data(),
)
def test_all_are_served_within_memory_and_none_is_bypassed_too_often(
    needs: list[MemoryNeed],
    max_requests: int,
    max_bytes: int,
    max_bypass: int,
    data: st.DataObject,
) -> None:
    budget = MemoryBudget(max_requests, max_bytes, 2)
    needs = [need for need in needs if budget.fits([need])]
    queue = queue_of(needs, max_bypass)
    running: dict[int, MemoryNeed] = {}
    order: list[int] = []
    while len(queue) or running:
        for item in admitted(queue, running.values(), budget):
            running[item] = needs[item]
            order.append(item)
        assert running, "what fits alone is admitted when nothing runs"
        assert budget.fits([*running.values()])
        if len(queue) and len(running) < max_requests:
            first = queue.items[0].need
            assert not budget.fits([*running.values(), first]), "the first waits although it fits"
        del running[data.draw(st.sampled_from(sorted(running)))]
    assert sorted(order) == list(range(len(needs)))
    for item in order:
        bypassed = sum(later > item for later in order[: order.index(item)])
        assert bypassed <= max_bypass


def test_what_does_not_fit_is_bypassed_as_often_as_allowed() -> None:
    budget = MemoryBudget(max_requests=9, max_bytes=100, bytes_per_position=1)
    queue = queue_of([SMALL, LARGE, LARGE, *[SMALL] * 5], max_bypass=2)
    assert admitted(queue, [SMALL], budget) == [0, 3, 4]
    assert admitted(queue, [SMALL] * 2, budget) == []
    assert admitted(queue, [], budget) == [1], "2 was bypassed twice as well, so 5 waits"
    assert admitted(queue, [], budget) == [2, 5]
    queue.add(9, SMALL, first=True)
    assert admitted(queue, [], budget) == [9, 6, 7]


def test_an_item_can_be_removed_from_the_queue() -> None:
    queue = queue_of([LARGE] * 3)
    assert queue.remove(lambda item: item == 1)
    assert not queue.remove(lambda item: item == 1)
    assert [waiting.item for waiting in queue.items] == [0, 2]


def test_a_pass_has_the_widest_text_and_the_most_extra_columns_in_every_row() -> None:
    shapes = [PassShape(30, sequences=2), PassShape(20, extra_columns=12)]
    assert pass_positions(shapes) == 3 * 42
    assert [shape.positions for shape in shapes] == [60, 32]


def partitions(items: list[int]) -> list[list[list[int]]]:
    """Every way to group items."""
    if not items:
        return [[]]
    first, *rest = items
    ways = []
    for parts in partitions(rest):
        ways.append([[first], *parts])
        ways += [[*parts[:i], [first, *part], *parts[i + 1 :]] for i, part in enumerate(parts)]
    return ways


def total_cost(shapes: list[PassShape], passes: list[list[int]], overhead: int) -> int:
    return sum(overhead + pass_positions([shapes[i] for i in group]) for group in passes)


@FAST
@given(shapes=SHAPES, overhead=st.integers(0, 60))
def test_no_other_grouping_is_cheaper(shapes: list[PassShape], overhead: int) -> None:
    passes = group_into_passes(shapes, overhead)
    indices = list(range(len(shapes)))
    assert sorted(i for group in passes for i in group) == indices
    least = min(total_cost(shapes, ways, overhead) for ways in partitions(indices))
    assert total_cost(shapes, passes, overhead) == least
    widest = [max(shapes[i].width for i in group) for group in passes]
    assert widest == sorted(widest), "the narrowest first"


@FAST
@given(shapes=SHAPES, overhead=st.integers(0, 60), limit=st.integers(1, 80))
def test_a_pass_of_several_requests_is_limited(
    shapes: list[PassShape], overhead: int, limit: int
) -> None:
    shapes = [PassShape(x.width, x.sequences, i % 3) for i, x in enumerate(shapes)]
    passes = group_into_passes(shapes, overhead, limit)
    assert sorted(i for group in passes for i in group) == list(range(len(shapes)))
    for group in passes:
        assert len(group) == 1 or pass_positions([shapes[i] for i in group]) <= limit


@pytest.mark.parametrize(
    "widths, expected",
    [
        ([32] * 3 + [500], [[0, 1, 2], [3]]),
        ([500, 32, 480], [[1], [0, 2]]),
        ([30, 32, 40], [[0, 1, 2]]),
        ([], []),
    ],
)
def test_a_whole_canvas_does_not_widen_blocks(widths: list[int], expected: list[list[int]]) -> None:
    assert group_into_passes([PassShape(width) for width in widths], 64) == expected
