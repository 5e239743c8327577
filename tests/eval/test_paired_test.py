"""A p-value for paired answers that keeps its level, and how many items it needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creditdecoding.eval import paired_test
from creditdecoding.eval.paired_test import PairedCounts, items_needed, p_value


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.2, 0.4])
@pytest.mark.parametrize(("items", "bound"), [(60, 0.05), (20, 0.1)])
def test_at_the_edge_of_the_hypothesis_the_level_is_kept(
    gain: float, items: int, bound: float
) -> None:
    """At a loss of exactly the bound, however often answers change, no more than a tenth of the
    draws is certified at 0.9.
    """
    rng = np.random.default_rng(5)
    table: dict[tuple[int, int], float] = {}
    rejected = []
    for lost, won, _ in rng.multinomial(
        items, [gain + bound, gain, 1 - 2 * gain - bound], size=2000
    ).tolist():
        if (lost, won) not in table:
            table[lost, won] = (
                p_value(PairedCounts(items, lost, won), bound)
                if lost - won < items * bound
                else 1.0
            )
        rejected.append(table[lost, won] <= 0.1)
    assert np.mean(rejected) <= 0.1 + 3 * (0.1 * 0.9 / 2000) ** 0.5


def test_without_any_change_it_is_the_binomial_one() -> None:
    assert p_value(PairedCounts(230, 0, 0), 0.01) == pytest.approx(0.99**230, rel=0.006)
    assert (
        p_value(PairedCounts(50, 0, 0), 0.01) > 0.5 and p_value(PairedCounts(60, 3, 0), 0.05) == 1.0
    )


@settings(max_examples=15, deadline=None)
@given(
    items=st.integers(5, 60),
    lost=st.integers(0, 5),
    won=st.integers(0, 5),
    bound=st.sampled_from([0.02, 0.1, 0.4]),
)
def test_more_losses_are_less_evidence_and_gains_are_more(
    items: int, lost: int, won: int, bound: float
) -> None:
    lost, won = min(lost, items // 3), min(won, items // 3)
    p = p_value(PairedCounts(items, lost, won), bound)
    assert 0 < p <= 1
    assert p_value(PairedCounts(items, lost + 1, won), bound) >= p * 0.99
    assert p_value(PairedCounts(items, lost, won + 1), bound) <= p * 1.01


def test_items_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert items_needed(PairedCounts(20, 0, 0), 0.05, 0.1) == pytest.approx(
        45, abs=1
    )  # 0.95^45 = 0.0994
    count = items_needed(PairedCounts(60, 1, 0), 0.05, 0.1)
    assert count is not None and p_value(
        PairedCounts(60, 1, 0).scaled(count), 0.05
    ) <= 0.1 < p_value(PairedCounts(60, 1, 0).scaled(count - 10), 0.05)
    monkeypatch.setattr(paired_test, "MOST_ITEMS", 60)  # not 20 doubled twice
    assert items_needed(PairedCounts(20, 0, 0), 0.05, 0.1) == pytest.approx(45, abs=1)
    monkeypatch.setattr(paired_test, "MOST_ITEMS", 300)
    assert items_needed(PairedCounts(100, 50, 41), 0.0901, 0.1) is None


def test_of_all_certified_settings_none_is_wrong_more_often_than_promised() -> None:
    """Settings of growing loss tried on the same draws: how often any certified one loses more than
    the bound.
    """
    rng, wrong, table = np.random.default_rng(1), 0, {}
    for _ in range(400):
        lost = rng.random(60)
        for share in (0.0, 0.02, 0.1001, 0.12, 0.2):
            count = int((lost < share).sum())
            if count not in table:
                table[count] = p_value(PairedCounts(60, count, 0), 0.1)
            if table[count] > 0.1:
                break
            if share > 0.1:
                wrong += 1
                break
    assert wrong / 400 <= 0.1 + 3 * (0.1 * 0.9 / 400) ** 0.5
