"""How good a verifier is on problems it has not learned from: Brier score, calibration, order.

Every number comes with the middle 95 % of a bootstrap over problems; tasks weigh alike. The noise
floor is what a perfect predictor scores against labels of finitely many draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from creditdecoding.bootstrap import (
    FloatArray,
    Interval,
    percentile_interval,
    resampled_means,
    stratified_mean,
)
from creditdecoding.pav.data.label_store import Label
from creditdecoding.pav.problems import ProblemKey

BINS = 10
RESAMPLES = 2000

Statistic = Callable[[FloatArray], FloatArray]
"""From sums [resamples, columns] to a number for each resample."""

# Columns of the sums over the states of a problem; two columns for each bin follow.
COUNT, ERROR, VALUE, SQUARE, KNOWN, NOISE, ORDERED, PAIRS = range(8)
PREDICTED = slice(8, 8 + BINS)
OBSERVED = slice(8 + BINS, 8 + 2 * BINS)


class ProblemBootstrap:
    """Sums of `columns` [states, columns] by problem, with resamples of the problems of each task.

    Two of them with the same problems draw the same resamples, so differences are paired.
    """

    def __init__(
        self, keys: Sequence[ProblemKey], columns: FloatArray, resamples: int = RESAMPLES
    ) -> None:
        self.problems = sorted(set(keys))
        tasks = sorted({task for task, _ in self.problems})
        row_of = {key: row for row, key in enumerate(self.problems)}
        sums = np.zeros((len(self.problems), columns.shape[1]))
        np.add.at(sums, [row_of[key] for key in keys], columns)
        strata = [tasks.index(task) for task, _ in self.problems]
        self.point = stratified_mean(sums, strata)[None]
        self.draws = resampled_means(sums, strata, resamples)

    def interval(self, statistic: Statistic) -> Interval:
        """A statistic of the mean sums with its interval; resamples without one are left out."""
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = statistic(self.draws)
            return percentile_interval(float(statistic(self.point)[0]), draws[np.isfinite(draws)])


@dataclass(frozen=True)
class VerifierMetrics:
    """Metrics on `states` states of `problems` problems.

    `brier` compares with `base` (predicting the mean label everywhere) and `floor` (the noise of
    the labels; None if every unfinished state was drawn once). `brier_skill` is the share of the
    way from base to floor (or to 0). `ece` is the mean distance between prediction and frequency
    over `curve`. `pairwise_accuracy` is the share of pairs of states of one problem with different
    labels that are ordered right, ties counting half (None without such pairs).
    """

    problems: int
    states: int
    brier: Interval
    base: Interval
    floor: Interval | None
    brier_skill: Interval | None
    ece: Interval
    pairwise_accuracy: Interval | None
    curve: tuple[dict[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record, with the keys that verifier.json has had in all versions."""
        intervals = {
            "brier": self.brier,
            "base": self.base,
            "floor": self.floor,
            "skill": self.brier_skill,
            "ece": self.ece,
            "rank": self.pairwise_accuracy,
        }
        return {
            "problems": self.problems,
            "states": self.states,
            **{name: value and value.rounded(4) for name, value in intervals.items()},
            "curve": list(self.curve),
        }


def measure(
    labels: Sequence[Label], q: Sequence[float], resamples: int = RESAMPLES
) -> VerifierMetrics:
    """Compare predictions `q` [states] with labels."""
    value = np.array([label.value for label in labels])
    predicted = np.asarray(q, dtype=np.float64)
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    keys = [label.key for label in labels]
    sums = ProblemBootstrap(keys, _columns(labels, value, predicted, bins), resamples)
    repeated = any(label.draws > 1 and not label.state.done for label in labels)
    lowest = _floor if repeated else _zero
    varied = bool((_base(sums.point) > lowest(sums.point))[0])
    return VerifierMetrics(
        problems=len(sums.problems),
        states=len(labels),
        brier=sums.interval(_brier),
        base=sums.interval(_base),
        floor=sums.interval(_floor) if repeated else None,
        brier_skill=sums.interval(_skill_above(lowest)) if varied else None,
        ece=sums.interval(_ece),
        pairwise_accuracy=sums.interval(_pairwise) if sums.point[0, PAIRS] else None,
        curve=tuple(_calibration_curve(predicted, value, bins)),
    )


def brier_difference(
    labels: Sequence[Label],
    q: Sequence[float],
    other_q: Sequence[float],
    resamples: int = RESAMPLES,
) -> Interval:
    """The Brier score of predictions `q` [states] minus that of `other_q`, paired by problem."""
    value = np.array([label.value for label in labels])
    difference = (np.asarray(q) - value) ** 2 - (np.asarray(other_q) - value) ** 2
    columns = np.stack([np.ones(len(labels)), difference], axis=1)
    sums = ProblemBootstrap([label.key for label in labels], columns, resamples)
    return sums.interval(lambda sums: np.asarray(sums[:, 1] / sums[:, 0]))


def _columns(
    labels: Sequence[Label], value: FloatArray, predicted: FloatArray, bins: FloatArray
) -> FloatArray:
    """What is summed over the states of a problem [states, columns]."""
    columns = np.zeros((len(labels), OBSERVED.stop))
    noise = np.array([_label_variance(label) for label in labels])
    known = np.isfinite(noise)
    columns[:, COUNT] = 1
    columns[:, ERROR] = (predicted - value) ** 2
    columns[:, VALUE] = value
    columns[:, SQUARE] = value**2
    columns[:, KNOWN] = known
    columns[:, NOISE] = np.where(known, noise, 0.0)
    in_bin = bins[:, None] == np.arange(BINS)
    columns[:, PREDICTED] = in_bin * predicted[:, None]
    columns[:, OBSERVED] = in_bin * value[:, None]
    columns[:, ORDERED], columns[:, PAIRS] = _ordered_pairs(labels, value, predicted)
    return columns


def _label_variance(label: Label) -> float:
    """Unbiased variance of a label about the chance it estimates; NaN for a single draw."""
    if label.state.done:
        return 0.0
    return label.value * (1 - label.value) / (label.draws - 1) if label.draws > 1 else np.nan


def _ordered_pairs(
    labels: Sequence[Label], value: FloatArray, predicted: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """For each state, the states of its problem with lower labels that are predicted lower (ties
    count half), and all states with lower labels.
    """
    rows_of: dict[ProblemKey, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label.key, []).append(row)
    ordered = np.zeros(len(labels))
    pairs = np.zeros(len(labels))
    for rows in rows_of.values():
        higher = value[rows][:, None] > value[rows]
        difference = predicted[rows][:, None] - predicted[rows]
        right = (difference > 0) + 0.5 * (difference == 0)
        ordered[rows] = (right * higher).sum(axis=1)
        pairs[rows] = higher.sum(axis=1)
    return ordered, pairs


def _brier(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, ERROR] / sums[:, COUNT])


def _base(sums: FloatArray) -> FloatArray:
    mean = sums[:, VALUE] / sums[:, COUNT]
    return np.asarray(sums[:, SQUARE] / sums[:, COUNT] - mean**2)


def _floor(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, NOISE] / sums[:, KNOWN])


def _zero(sums: FloatArray) -> FloatArray:
    return np.zeros(len(sums))


def _skill_above(lowest: Statistic) -> Statistic:
    """The share of the way from the base to the lowest possible Brier score."""
    return lambda sums: np.asarray((_base(sums) - _brier(sums)) / (_base(sums) - lowest(sums)))


def _ece(sums: FloatArray) -> FloatArray:
    distance = np.abs(sums[:, PREDICTED] - sums[:, OBSERVED]).sum(axis=1)
    return np.asarray(distance / sums[:, COUNT])


def _pairwise(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, ORDERED] / sums[:, PAIRS])


def _calibration_curve(
    predicted: FloatArray, value: FloatArray, bins: FloatArray
) -> list[dict[str, float]]:
    return [
        {
            "from": number / BINS,
            "states": int((bins == number).sum()),
            "predicted": round(float(predicted[bins == number].mean()), 4),
            "frequency": round(float(value[bins == number].mean()), 4),
        }
        for number in sorted(set(bins.tolist()))
    ]
