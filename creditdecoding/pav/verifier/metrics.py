"""How good a verifier is on problems that it has not learned from: reliability, Brier score, order
of the states of a problem.

Every number comes with the middle 95% of a bootstrap over problems; families weigh alike
(eval/statistics.py). The noise floor is what a
perfect predictor scores against labels of finitely many draws.
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

BINS = 10
RESAMPLES = 2000


@dataclass(frozen=True)
class VerifierMetrics:
    """What was found on `states` states of `problems` problems.

    `brier` beside `base` (the same number predicted for every state: the mean label) and `floor`
    (what the labels' own noise costs;
    None where every unfinished state was drawn once); `skill` is the share of the way from base to
    floor
    (to 0 where that is unknown); `ece` the mean distance between
    prediction and frequency over `curve`; `rank` the share of pairs of states of one problem with
    unlike labels that are ordered
    right, ties a half (None without such pairs).
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
        """A JSON-ready record."""
        named = {
            "brier": self.brier,
            "base": self.base,
            "floor": self.floor,
            "skill": self.brier_skill,
            "ece": self.ece,
            "rank": self.pairwise_accuracy,
        }
        shown = {name: None if value is None else value.rounded(4) for name, value in named.items()}
        return {
            "problems": self.problems,
            "states": self.states,
            **shown,
            "curve": list(self.curve),
        }


def measure(
    labels: Sequence[Label], q: Sequence[float], resamples: int = RESAMPLES
) -> VerifierMetrics:
    """Hold predictions `q` [states] to labels."""
    problems: dict[tuple[str, int], list[int]] = {}
    for place, label in enumerate(labels):
        problems.setdefault((label.family, label.problem), []).append(place)
    value, given = np.array([label.value for label in labels]), np.asarray(q, dtype=np.float64)
    noise = np.array([_noise(label) for label in labels])
    known = np.isfinite(noise)
    bins = np.minimum((given * BINS).astype(int), BINS - 1)
    one = np.ones(len(labels))
    columns = [one, (given - value) ** 2, value, value**2, known * 1.0, np.where(known, noise, 0.0)]
    columns += [(bins == b) * x for x in (one, given, value) for b in range(BINS)]
    each = np.stack(columns, axis=1)
    sums = np.array(
        [
            [*each[places].sum(axis=0), *_order(value[places], given[places])]
            for places in problems.values()
        ]
    )
    families = sorted({family for family, _ in problems})
    strata = [families.index(family) for family, _ in problems]
    point, draws = stratified_mean(sums, strata)[None], resampled_means(sums, strata, resamples)

    def over(statistic: Callable[[FloatArray], FloatArray]) -> Interval:
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = statistic(draws)
            return percentile_interval(float(statistic(point)[0]), drawn[np.isfinite(drawn)])

    repeated = any(label.draws > 1 and not label.state.done for label in labels)
    least = _floor if repeated else _zero
    spread, pairs = bool((_base(point) - least(point))[0] > 0), bool(point[0, -1])
    return VerifierMetrics(
        len(problems),
        len(labels),
        over(_brier),
        over(_base),
        over(_floor) if repeated else None,
        over(lambda s: (_base(s) - _brier(s)) / (_base(s) - least(s))) if spread else None,
        over(_ece),
        over(lambda s: s[:, -2] / s[:, -1]) if pairs else None,
        tuple(_curve(given, value, bins)),
    )


def brier_difference(
    labels: Sequence[Label],
    one: Sequence[float],
    other: Sequence[float],
    resamples: int = RESAMPLES,
) -> Interval:
    """How much higher (worse) the Brier score of predictions `one` [states] is than that of
    `other`, over the same draws of problems.
    """
    value = np.array([label.value for label in labels])
    more = (np.asarray(one, dtype=np.float64) - value) ** 2 - (
        np.asarray(other, dtype=np.float64) - value
    ) ** 2
    problems = sorted({(label.family, label.problem) for label in labels})
    families = sorted({family for family, _ in problems})
    place = {key: i for i, key in enumerate(problems)}
    sums = np.zeros((len(problems), 2))
    np.add.at(
        sums,
        [place[label.family, label.problem] for label in labels],
        np.stack([np.ones(len(labels)), more], axis=1),
    )
    strata = [families.index(family) for family, _ in problems]
    point, draws = stratified_mean(sums, strata), resampled_means(sums, strata, resamples)
    return percentile_interval(float(point[1] / point[0]), draws[:, 1] / draws[:, 0])


def _noise(label: Label) -> float:
    """Unbiased estimate of the variance of a label about the chance it estimates; NaN for a single
    draw of an answer that is not complete.
    """
    if label.state.done:
        return 0.0
    return label.value * (1 - label.value) / (label.draws - 1) if label.draws > 1 else np.nan


def _order(value: FloatArray, given: FloatArray) -> tuple[float, float]:
    """Pairs ordered right and pairs with unlike labels, of one problem's states."""
    above = value[:, None] > value[None]
    right = (given[:, None] > given[None]) + 0.5 * (given[:, None] == given[None])
    return float(right[above].sum()), float(above.sum())


def _brier(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, 1] / sums[:, 0])


def _base(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, 3] / sums[:, 0] - (sums[:, 2] / sums[:, 0]) ** 2)


def _floor(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, 5] / sums[:, 4])


def _zero(sums: FloatArray) -> FloatArray:
    return np.zeros(len(sums))


def _ece(sums: FloatArray) -> FloatArray:
    given, value = sums[:, 6 + BINS : 6 + 2 * BINS], sums[:, 6 + 2 * BINS : 6 + 3 * BINS]
    return np.asarray(np.abs(given - value).sum(axis=1) / sums[:, 0])


def _curve(given: FloatArray, value: FloatArray, bins: FloatArray) -> list[dict[str, float]]:
    found = []
    for b in range(BINS):
        inside = bins == b
        if inside.any():
            means = {
                "predicted": round(float(given[inside].mean()), 4),
                "frequency": round(float(value[inside].mean()), 4),
            }
            found.append({"from": b / BINS, "states": int(inside.sum()), **means})
    return found
