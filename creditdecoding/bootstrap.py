"""Paired bootstrap over items, intervals, and the area under a curve of score over passes.

Every number is a mean over families of the mean over their items. Items are drawn anew within each
family, the same draw for all
decoders, so that a difference of two columns is a paired one.
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
    """An estimate with the ends of its interval, those of the middle 95% of the resamples."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0

    def rounded(self, digits: int) -> dict[str, float]:
        """A JSON-ready record."""
        return {
            "value": round(self.value, digits),
            "low": round(self.low, digits),
            "high": round(self.high, digits),
        }


def stratified_mean(values: FloatArray, strata: Sequence[int]) -> FloatArray:
    """Means over families [columns] of `values` [items, columns]; `strata` names the family of each
    item.
    """
    return np.asarray(
        np.mean([values[members].mean(axis=0) for members in _members(strata)], axis=0)
    )


def resampled_means(
    values: FloatArray, strata: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> FloatArray:
    """The same means over `resamples` draws of the items with replacement within each family
    [resamples, columns].
    """
    families = _members(strata)
    found = np.zeros((resamples, values.shape[1]))
    for number, members in enumerate(families):
        size = len(members)
        drawn = np.random.default_rng((seed, number)).integers(size, size=(resamples, size))
        flat = (drawn + np.arange(resamples)[:, None] * size).ravel()
        counts = np.bincount(flat, minlength=resamples * size).reshape(resamples, size)
        found += counts @ values[members] / size
    return found / len(families)


def percentile_interval(value: float, draws: FloatArray) -> Interval:
    """`value` with the middle 95% of `draws`."""
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def area_under_curve(passes: FloatArray, scores: FloatArray, low: float, high: float) -> float:
    """Mean height of the curve through the points, linear in the logarithm of passes, from `low` to
    `high` passes.

    Points with equal passes count as their mean. Beyond its ends the curve goes on level.
    """
    places, which = np.unique(np.log(passes), return_inverse=True)
    heights = np.bincount(which, weights=scores) / np.bincount(which)
    first, last = np.log(low), np.log(high)
    grid = np.concatenate([[first], places[(places > first) & (places < last)], [last]])
    line = np.interp(grid, places, heights)
    return float(np.sum((line[1:] + line[:-1]) / 2 * np.diff(grid)) / (last - first))


def areas_under_curves(
    passes: FloatArray, scores: FloatArray, low: float, high: float
) -> FloatArray:
    """`area` of every row of [resamples, points]."""
    return np.array([area_under_curve(x, y, low, high) for x, y in zip(passes, scores)])


def _members(strata: Sequence[int]) -> list[NDArray[np.intp]]:
    """The items of each family."""
    given = np.asarray(strata)
    return [np.flatnonzero(given == stratum) for stratum in sorted(set(strata))]
