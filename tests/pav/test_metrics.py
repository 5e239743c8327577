"""Metrics of a verifier: by hand, at the noise floor, and paired."""

from __future__ import annotations

import numpy as np
import pytest

from creditdecoding.pav.data.label_store import Label
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.metrics import brier_difference, measure


def counted(problem: int, wins: int, draws: int, done: bool = False) -> Label:
    """A label of some state."""
    return Label("quiz", problem, PartialAnswer((7,), (wins + 50,), (1,), done), wins, draws)


def test_measures_of_a_small_case_by_hand() -> None:
    labels = [counted(0, 1, 4), counted(0, 3, 4), counted(1, 2, 4), counted(1, 1, 1, done=True)]
    metrics = measure(labels, [0.25, 0.25, 0.55, 0.95])
    assert metrics.brier.value == pytest.approx((0 + 0.25 + 0.0025 + 0.0025) / 4)
    assert metrics.base.value == pytest.approx(np.var([0.25, 0.75, 0.5, 1.0]))
    assert metrics.floor is not None and metrics.floor.value == pytest.approx(
        (0.1875 / 3 * 2 + 0.25 / 3) / 4
    )
    assert (
        metrics.pairwise_accuracy is not None
        and metrics.pairwise_accuracy.value == pytest.approx((0.5 + 1) / 2)
    )  # one pair is tied, one is in order
    assert (
        metrics.ece.value == pytest.approx((0.5 + 0.05 + 0.05) / 4)
        and metrics.problems == 2
        and metrics.states == 4
    )
    assert [(point["from"], point["states"]) for point in metrics.curve] == [
        (0.2, 2),
        (0.5, 1),
        (0.9, 1),
    ]
    once = measure([counted(0, 1, 1), counted(1, 0, 1)], [0.9, 0.2])
    assert (
        once.floor is None
        and once.pairwise_accuracy is None
        and once.brier.value == pytest.approx(0.025)
    )
    assert once.brier_skill is not None and once.brier_skill.value == pytest.approx(
        0.9
    )  # of the way from 0.25 to 0
    ends = measure(
        [counted(0, 1, 1), counted(1, 0, 1), counted(2, 3, 3, done=True)], [0.9, 0.2, 1.0]
    )
    assert ends.floor is None, (
        "what complete answers are is certain, and says nothing of the others"
    )


def test_a_perfect_verifier_reaches_the_floor() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random((400, 5))
    labels = [counted(i, int(rng.binomial(6, q)), 6) for i, row in enumerate(chances) for q in row]
    metrics = measure(labels, chances.ravel().tolist(), resamples=500)
    assert metrics.floor is not None and metrics.floor.value == pytest.approx(
        metrics.brier.value, rel=0.05
    )
    assert (
        metrics.brier_skill is not None
        and metrics.brier_skill.low < 1 < metrics.brier_skill.high
        and metrics.ece.value < 0.03
    )
    worse = measure(labels, rng.permutation(chances.ravel()).tolist(), resamples=500)
    assert (
        worse.brier.value > worse.base.value
        and worse.pairwise_accuracy is not None
        and worse.pairwise_accuracy.low < 0.5 < worse.pairwise_accuracy.high
    )


def test_the_gap_of_two_verifiers_is_the_difference_of_their_brier_scores_and_paired() -> None:
    rng = np.random.default_rng(1)
    chances = rng.random((300, 4))
    labels = [counted(i, int(rng.binomial(2, q)), 2) for i, row in enumerate(chances) for q in row]
    good, poor = chances.ravel(), np.clip(chances.ravel() + rng.normal(0, 0.2, chances.size), 0, 1)
    difference = brier_difference(labels, poor.tolist(), good.tolist())
    apart = measure(labels, poor.tolist()).brier, measure(labels, good.tolist()).brier
    assert difference.value == pytest.approx(apart[0].value - apart[1].value) and difference.low > 0
    assert difference.high - difference.low < (
        apart[0].high - apart[0].low
    )  # the labels' own noise is in both
    nothing = brier_difference(labels, good.tolist(), good.tolist())
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
