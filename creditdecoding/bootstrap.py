"""Stratified paired bootstrap, percentile intervals, and the area under a score-passes curve.

Every estimate is a mean over tasks of the mean over their items. Items are resampled within each
task, the same draw for all columns, so that a difference of two columns is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

RESAMPLES = 10_000
AREA_RESAMPLES = 2_000
LEVEL = 95.0


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside of the interval."""
        return self.low > 0 or self.high < 0

    def rounded(self, digits: int) -> dict[str, float]:
        """A JSON-ready record."""
        return {
            "value": round(self.value, digits),
            "low": round(self.low, digits),
            "high": round(self.high, digits),
        }


def stratified_mean(values: FloatArray, strata: Sequence[int]) -> FloatArray:
    """Means over strata [columns] of the means of `values` [items, columns] in each stratum.

    `strata` [items] are the numbers of the items' tasks.
    """
    means = [values[members].mean(axis=0) for members in _members(strata)]
    return np.asarray(np.mean(means, axis=0))


def resampled_means(
    values: FloatArray, strata: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> FloatArray:
    """`stratified_mean` of `resamples` draws with replacement [resamples, columns]."""
    members_of = _members(strata)
    total = np.zeros((resamples, values.shape[1]))
    first_bin = np.arange(resamples)[:, None]
    for number, members in enumerate(members_of):
        size = len(members)
        draws = np.random.default_rng((seed, number)).integers(size, size=(resamples, size))
        bins = (draws + first_bin * size).ravel()
        counts = np.bincount(bins, minlength=resamples * size).reshape(resamples, size)
        total += counts @ values[members] / size
    return total / len(members_of)


def percentile_interval(value: float, draws: FloatArray) -> Interval:
    """`value` with the middle 95% of `draws`."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def area_under_curve(passes: FloatArray, scores: FloatArray, low: float, high: float) -> float:
    """Mean height from `low` to `high` passes of the curve through the points.

    The curve is linear in log(passes) and level beyond its ends. Points with equal passes are
    averaged.
    """
    knots, index = np.unique(np.log(passes), return_inverse=True)
    heights = np.bincount(index, weights=scores) / np.bincount(index)
    first, last = np.log(low), np.log(high)
    grid = np.concatenate([[first], knots[(knots > first) & (knots < last)], [last]])
    curve = np.interp(grid, knots, heights)
    return float(np.sum((curve[1:] + curve[:-1]) / 2 * np.diff(grid)) / (last - first))


def areas_under_curves(
    passes: FloatArray, scores: FloatArray, low: float, high: float
) -> FloatArray:
    """`area_under_curve` of every row of [resamples, points]."""
    return np.array([area_under_curve(x, y, low, high) for x, y in zip(passes, scores)])


def _members(strata: Sequence[int]) -> list[NDArray[np.intp]]:
    """Indices of the items of each stratum."""
    numbers = np.asarray(strata)
    return [np.flatnonzero(numbers == stratum) for stratum in sorted(set(strata))]
