"""The paired bootstrap and areas, against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from creditdecoding.bootstrap import (
    area_under_curve,
    percentile_interval,
    resampled_means,
    stratified_mean,
)


def test_means_weigh_families_equally() -> None:
    values = np.array([[1.0], [3.0], [10.0]])
    assert stratified_mean(values, [0, 0, 1]).tolist() == [6.0]  # (2 + 10) / 2
    assert stratified_mean(values, [0, 0, 0]).tolist() == pytest.approx([14 / 3])


def test_the_bootstrap_has_the_exact_distribution_of_a_small_case() -> None:
    """Of two items with differences 0 and 1 the mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4:
    the 95% interval is [0, 1].
    """
    draws = resampled_means(np.array([[0.0], [1.0]]), [0, 0], 20_000)[:, 0]
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)
    assert (percentile_interval(0.5, draws).low, percentile_interval(0.5, draws).high) == (0.0, 1.0)


def test_the_bootstrap_is_paired_stratified_and_seeded() -> None:
    rng = np.random.default_rng(3)
    first = rng.random(40)
    values = np.stack([first, first + 2.0, rng.random(40)], axis=1)
    strata = [0] * 10 + [1] * 30
    draws = resampled_means(values, strata, 500)
    assert draws[:, 1] - draws[:, 0] == pytest.approx(
        np.full(500, 2.0)
    )  # the same items for both: no spread in the difference
    assert (draws[:, 2] - draws[:, 0]).std() > 0.01
    assert (draws == resampled_means(values, strata, 500)).all() and (
        draws != resampled_means(values, strata, 500, seed=1)
    ).any()
    families = resampled_means(np.array([[0.0], [0.0], [8.0], [8.0]]), [0, 0, 1, 1], 100)
    assert (families == 4.0).all()  # drawn within each family, never across


def test_the_interval_of_many_items_is_the_normal_one() -> None:
    values = np.array([0.0, 1.0] * 200)[:, None]
    interval = percentile_interval(0.5, resampled_means(values, [0] * 400)[:, 0])
    assert interval.low == pytest.approx(0.5 - 1.96 * 0.5 / 20, abs=0.004)
    assert interval.high == pytest.approx(0.5 + 1.96 * 0.5 / 20, abs=0.004)


def test_areas_worked_by_hand() -> None:
    e = math.e
    assert area_under_curve(np.array([1.0, e]), np.array([0.0, 1.0]), 1.0, e) == pytest.approx(0.5)
    assert area_under_curve(np.array([e, 1.0]), np.array([1.0, 0.0]), 1.0, e) == pytest.approx(
        0.5
    )  # the order of points is nothing
    assert area_under_curve(
        np.array([1.0, e, e**2]), np.array([0.0, 10.0, 10.0]), 1.0, e**2
    ) == pytest.approx(7.5)
    assert area_under_curve(np.array([1.0, e**2]), np.array([0.0, 10.0]), e, e**2) == pytest.approx(
        7.5
    )  # cut at the lower end
    assert area_under_curve(np.array([e, e**2]), np.array([4.0, 8.0]), 1.0, e**2) == pytest.approx(
        (4 + 6) / 2
    )  # level beyond its end
    assert area_under_curve(
        np.array([1.0, 1.0, e]), np.array([0.0, 4.0, 2.0]), 1.0, e
    ) == pytest.approx(2.0)  # equal passes: their mean
