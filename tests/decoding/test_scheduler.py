"""Admission and dealing on plain numbers: fair, bounded, within memory, and as cheap as any way to
share.
"""

from __future__ import annotations

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

FAST = settings(max_examples=200, deadline=None, database=None)
NEEDS = st.builds(
    MemoryNeed, st.integers(1, 2), st.integers(1, 9), st.integers(0, 50), st.booleans()
)
WORKS = st.lists(
    st.builds(PassShape, st.integers(1, 40), st.integers(1, 2)), min_size=1, max_size=7
)


def queue(needs: list[MemoryNeed], overtakes: int = 2) -> WaitQueue[int]:
    waiting = WaitQueue[int](overtakes)
    for i, need in enumerate(needs):
        waiting.add(i, need)
    return waiting


def admitted(waiting: WaitQueue[int], running: list[MemoryNeed], budget: MemoryBudget) -> list[int]:
    return [one.item for one in waiting.admit(running, budget)]


def test_what_rows_take_together() -> None:
    """A cache is as wide as its longest row, for every place, with a column for padding; nobody
    pays for a cache that nobody uses.
    """
    budget = MemoryBudget(4, 1000, 10)
    kept, plain = MemoryNeed(2, 7, 5, True), MemoryNeed(1, 9, 3, False)
    assert budget.taken([plain]) == 3 and budget.taken([kept]) == 2 * 8 * 10 + 5
    assert budget.taken([kept, plain]) == 3 * 10 * 10 + 8
    assert budget.taken([kept], shape=(4, 3)) == 4 * 8 * 10 + 5
    assert (
        budget.fits([kept] * 4)
        and not budget.fits([kept] * 5)
        and not MemoryBudget(9, 164, 10).fits([kept])
    )
    assert MemoryBudget(9, None, 10).fits([kept] * 9)


@FAST
@given(
    needs=st.lists(NEEDS, max_size=8),
    rows=st.integers(1, 5),
    most=st.integers(60, 400),
    overtakes=st.integers(0, 3),
    data=st.data(),
)
def test_everyone_is_served_in_memory_and_nobody_is_passed_too_often(
    needs: list[MemoryNeed], rows: int, most: int, overtakes: int, data: st.DataObject
) -> None:
    budget = MemoryBudget(rows, most, 2)
    needs = [need for need in needs if budget.fits([need])]
    waiting, running, order = queue(needs, overtakes), dict[int, MemoryNeed](), list[int]()
    while len(waiting) or running:
        for one in waiting.admit(running.values(), budget):
            running[one.item] = one.need
            order.append(one.item)
        assert running, "whoever fits alone is let in when nothing runs"
        assert budget.fits([*running.values()])
        if len(waiting) and len(running) < rows:
            assert not budget.fits([*running.values(), waiting.line[0].need]), (
                "the first waits without need"
            )
        del running[data.draw(st.sampled_from(sorted(running)))]
    assert sorted(order) == list(range(len(needs)))
    for item in order:
        assert sum(other > item for other in order[: order.index(item)]) <= overtakes, (
            "passed too often"
        )


def test_who_does_not_fit_is_passed_as_often_as_allowed() -> None:
    small, large = MemoryNeed(1, 1, 10, False), MemoryNeed(1, 1, 90, False)
    budget = MemoryBudget(9, 100, 1)
    waiting = queue([small, large, large, *[small] * 5], overtakes=2)
    assert admitted(waiting, [small], budget) == [0, 3, 4]
    assert admitted(waiting, [small] * 2, budget) == []
    assert admitted(waiting, [], budget) == [1], "whom the first was passed with was passed as well"
    assert admitted(waiting, [], budget) == [2, 5]
    waiting.add(9, small, first=True)
    assert admitted(waiting, [], budget) == [9, 6, 7]


def test_who_leaves_the_queue() -> None:
    waiting = queue([MemoryNeed(1, 1, 90, False)] * 3)
    assert waiting.remove(lambda item: item == 1) and not waiting.remove(lambda item: item == 1)
    assert [one.item for one in waiting.line] == [0, 2] and len(waiting) == 2


def cost(works: list[PassShape], fixed: int) -> int:
    return fixed + max(work.width for work in works) * sum(work.sequences for work in works)


def test_a_pass_is_as_wide_as_the_widest_text_and_the_most_beside_it() -> None:
    works = [PassShape(30, 2), PassShape(20, 1, 12)]
    assert pass_positions(works) == 3 * 42 and [work.positions for work in works] == [60, 32]


def partitions(items: list[int]) -> list[list[list[int]]]:
    """Every way to deal items into passes."""
    if not items:
        return [[]]
    first, *rest = items
    found = []
    for parts in partitions(rest):
        found.append([[first], *parts])
        found += [[*parts[:i], [first, *part], *parts[i + 1 :]] for i, part in enumerate(parts)]
    return found


@FAST
@given(works=WORKS, fixed=st.integers(0, 60))
def test_no_other_way_to_share_is_cheaper(works: list[PassShape], fixed: int) -> None:
    dealt = group_into_passes(works, fixed)
    assert sorted(i for group in dealt for i in group) == list(range(len(works)))
    least = min(
        sum(cost([works[i] for i in group], fixed) for group in parts)
        for parts in partitions(list(range(len(works))))
    )
    assert sum(cost([works[i] for i in group], fixed) for group in dealt) == least
    widest = [max(works[i].width for i in group) for group in dealt]
    assert widest == sorted(widest), "the narrow first"


@FAST
@given(works=WORKS, fixed=st.integers(0, 60), most=st.integers(1, 80))
def test_a_pass_has_a_size_at_most(works: list[PassShape], fixed: int, most: int) -> None:
    works = [PassShape(work.width, work.sequences, i % 3) for i, work in enumerate(works)]
    dealt = group_into_passes(works, fixed, most)
    assert sorted(i for group in dealt for i in group) == list(range(len(works)))
    assert all(
        len(group) == 1 or pass_positions([works[i] for i in group]) <= most for group in dealt
    )


@pytest.mark.parametrize(
    "widths, fixed, expected",
    [
        ([32] * 3 + [500], 64, [[0, 1, 2], [3]]),
        ([500, 32, 480], 64, [[1], [0, 2]]),
        ([30, 32, 40], 64, [[0, 1, 2]]),
        ([], 64, []),
    ],
)
def test_a_canvas_does_not_widen_blocks(
    widths: list[int], fixed: int, expected: list[list[int]]
) -> None:
    assert group_into_passes([PassShape(width) for width in widths], fixed) == expected
