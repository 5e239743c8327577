"""Admission and dealing on plain numbers: fair, bounded, within memory, and as cheap as any way to share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creditdecoding.scheduler import Budget, Need, Waiting, Work, deal, size

FAST = settings(max_examples=200, deadline=None, database=None)
NEEDS = st.builds(Need, st.integers(1, 2), st.integers(1, 9), st.integers(0, 50), st.booleans())
WORKS = st.lists(st.builds(Work, st.integers(1, 40), st.integers(1, 2)), min_size=1, max_size=7)


def queue(needs: list[Need], overtakes: int = 2) -> Waiting[int]:
    return Waiting(overtakes, list(enumerate(needs)))


def test_what_rows_take_together() -> None:
    """A cache is as wide as its longest row, for every place, with a column for padding; nobody pays for a cache that nobody uses."""
    budget = Budget(4, 1000, 10)
    kept, plain = Need(2, 7, 5, True), Need(1, 9, 3, False)
    assert budget.taken([plain]) == 3 and budget.taken([kept]) == 2 * 8 * 10 + 5
    assert budget.taken([kept, plain]) == 3 * 10 * 10 + 8
    assert budget.taken([kept], shape=(4, 3)) == 4 * 8 * 10 + 5
    assert budget.fits([kept] * 4) and not budget.fits([kept] * 5) and not Budget(9, 164, 10).fits([kept])
    assert Budget(9, None, 10).fits([kept] * 9)


@FAST
@given(needs=st.lists(NEEDS, max_size=8), rows=st.integers(1, 5), most=st.integers(60, 400), overtakes=st.integers(0, 3), data=st.data())
def test_everyone_is_served_in_memory_and_nobody_is_passed_too_often(
    needs: list[Need], rows: int, most: int, overtakes: int, data: st.DataObject
) -> None:
    budget = Budget(rows, most, 2)
    needs = [need for need in needs if budget.fits([need])]
    waiting, running, order = queue(needs, overtakes), {}, []
    while waiting.items or running:
        for item, need in waiting.admit(running.values(), budget):
            running[item] = need
            order.append(item)
        assert running, "whoever fits alone is let in when nothing runs"
        assert budget.fits([*running.values()])
        if waiting.items and len(running) < rows:
            assert not budget.fits([*running.values(), waiting.items[0][1]]), "the first waits without need"
        del running[data.draw(st.sampled_from(sorted(running)))]
    assert sorted(order) == list(range(len(needs)))
    for item in order:
        assert sum(other > item for other in order[: order.index(item)]) <= overtakes, "passed too often"


def test_only_the_first_may_be_passed_and_only_as_often_as_allowed() -> None:
    small, large = Need(1, 1, 10, False), Need(1, 1, 90, False)
    budget = Budget(9, 100, 1)
    waiting = queue([small, large, *[small] * 5], overtakes=2)
    first = [item for item, _ in waiting.admit([small], budget)]
    assert first == [0, 2, 3] and waiting.passed == 2
    assert waiting.admit([small] * 2, budget) == []
    assert [item for item, _ in waiting.admit([], budget)] == [1, 4] and waiting.passed == 0


def test_who_leaves_the_queue() -> None:
    waiting = queue([Need(1, 1, 90, False)] * 3)
    waiting.passed = 2
    assert waiting.remove(lambda item: item == 1) and waiting.passed == 2
    assert waiting.remove(lambda item: item == 0) and waiting.passed == 0, "a new first has not been passed yet"
    assert not waiting.remove(lambda item: item == 0) and [item for item, _ in waiting.items] == [2]


def cost(works: list[Work], fixed: int) -> int:
    return fixed + max(work.width for work in works) * sum(work.sequences for work in works)


def test_a_pass_is_as_wide_as_the_widest_text_and_the_most_beside_it() -> None:
    works = [Work(30, 2), Work(20, 1, 12)]
    assert size(works) == 3 * 42 and [work.positions for work in works] == [60, 32]


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
def test_no_other_way_to_share_is_cheaper(works: list[Work], fixed: int) -> None:
    dealt = deal(works, fixed)
    assert sorted(i for group in dealt for i in group) == list(range(len(works)))
    least = min(sum(cost([works[i] for i in group], fixed) for group in parts) for parts in partitions(list(range(len(works)))))
    assert sum(cost([works[i] for i in group], fixed) for group in dealt) == least
    widest = [max(works[i].width for i in group) for group in dealt]
    assert widest == sorted(widest), "the narrow first"


@FAST
@given(works=WORKS, fixed=st.integers(0, 60), most=st.integers(1, 80))
def test_a_pass_has_a_size_at_most(works: list[Work], fixed: int, most: int) -> None:
    works = [Work(work.width, work.sequences, i % 3) for i, work in enumerate(works)]
    dealt = deal(works, fixed, most)
    assert sorted(i for group in dealt for i in group) == list(range(len(works)))
    assert all(len(group) == 1 or size([works[i] for i in group]) <= most for group in dealt)


@pytest.mark.parametrize(
    "widths, fixed, expected",
    [
        ([32] * 3 + [500], 64, [[0, 1, 2], [3]]),
        ([500, 32, 480], 64, [[1], [0, 2]]),
        ([30, 32, 40], 64, [[0, 1, 2]]),
        ([], 64, []),
    ],
)
def test_a_canvas_does_not_widen_blocks(widths: list[int], fixed: int, expected: list[list[int]]) -> None:
    assert deal([Work(width) for width in widths], fixed) == expected
