"""Which prover to take, before any compute is spent on it: how far it tells steps apart, and how
far that agrees with the base policy.

For actions a ~ pi at a state s: distinguishability is Var[A^mu(s, a)], alignment E[A^mu(s, a)
A^pi(s, a)]; what a step of policy improvement
gains is at least about their sum (arXiv 2410.08146, Theorem 3.1). At one state an advantage is Q
less a constant and A^pi has mean 0, so
they are a variance and a covariance of Q^mu and Q^pi over the next steps. Those come from a store:
its answers form a tree of steps, and
where several begin alike their next steps are draws from pi. States count as often as they were
visited. From draws both are estimated without bias
(divided by n - 1); from counts also the noise of the counts is taken out. mu = pi adds nothing: its
alignment is Var[A^pi].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
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
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import best_of

FEWEST = 10
"""States with several different next steps without which no prover is named."""
RESAMPLES = 2000
PI = "bo1"
"""The base policy itself as a prover."""

Predict = Callable[[Sequence[PartialAnswer]], Sequence[float]]


@dataclass(frozen=True)
class Branching:
    """A state of a problem that was visited more than once: the next steps from there as states,
    and how often each was taken.
    """

    problem: tuple[str, int]
    children: tuple[PartialAnswer, ...]
    taken: tuple[int, ...]


def branchings(labels: Sequence[Label]) -> list[Branching]:
    """The forks of a store; a complete answer was drawn as often as its label says, a state that
    nothing in the store continues once.
    """
    continued = {
        (label.family, label.problem, prefix)
        for label in labels
        for prefix in label.state.prefixes[:-1]
    }
    taken: dict[tuple[tuple[str, int], PartialAnswer], dict[PartialAnswer, int]] = {}
    for label in labels:
        if (label.family, label.problem, label.state) in continued:
            continue
        path = label.state.prefixes
        for parent, child in itertools.pairwise(path):
            children = taken.setdefault(((label.family, label.problem), parent), {})
            children[child] = children.get(child, 0) + (label.draws if label.state.done else 1)
    return [
        Branching(problem, tuple(found), tuple(found.values()))
        for (problem, _), found in taken.items()
        if sum(found.values()) > 1
    ]


@dataclass(frozen=True)
class Moments:
    """Estimates for each next step of all forks, one behind the other: Q^mu, its square, Q^mu Q^pi,
    Q^pi; NaN where there is none.
    """

    mu: FloatArray
    square: FloatArray
    product: FloatArray
    pi: FloatArray

    @classmethod
    def predicted(cls, mu: FloatArray, pi: FloatArray) -> Moments:
        """From predictions."""
        return cls(mu, mu * mu, mu * pi, pi)

    @classmethod
    def counted(cls, labels: Sequence[Label | None], k: int) -> Moments:
        """From counts, without bias, for best-of-`k`: needs 2 `k` draws of a state; of a complete
        answer one says all.
        """
        one, power, more, twice = (
            np.array([_failing(label, m) for label in labels]) for m in (1, k, k + 1, 2 * k)
        )
        return cls(1 - power, 1 - 2 * power + twice, 1 - one - power + more, 1 - one)


def _failing(label: Label | None, tries: int) -> float:
    """Unbiased estimate of the chance that all of `tries` tries fail; NaN without a label or with
    fewer draws.
    """
    if label is None or (label.draws < tries and not label.state.done):
        return math.nan
    if label.state.done:
        return float(label.wins < label.draws)
    return math.comb(label.draws - label.wins, tries) / math.comb(label.draws, tries)


@dataclass(frozen=True)
class Prover:
    """What a prover promises: distinguishability, alignment, their sum; None where the counts
    cannot say.
    """

    name: str
    distinguishability: Interval | None
    alignment: Interval | None
    total: Interval | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        named = {
            "distinguishability": self.distinguishability,
            "alignment": self.alignment,
            "total": self.total,
        }
        return {
            "prover": self.name,
            **{name: None if value is None else value.rounded(5) for name, value in named.items()},
        }


@dataclass(frozen=True)
class ProverComparison:
    """Provers, on `states` states visited more than once (`several` with unlike next steps) of
    `problems` problems; the best one, and its equals.

    `equals` cannot be told from `chosen` (None: too few states, or nothing but the base policy
    itself).
    """

    provers: tuple[Prover, ...]
    problems: int
    states: int
    several: int
    chosen: str | None
    equals: tuple[str, ...]

    def words(self) -> list[str]:
        """The choice in sentences."""
        if self.several < FEWEST:
            return [
                f"Too few states with several next steps to choose a prover: {self.several}, at least {FEWEST} are needed."
            ]
        if self.chosen is None:
            return ["The base policy as its own prover adds nothing; name others."]
        said = [f"Take {self.chosen}: it has the largest sum of distinguishability and alignment."]
        return said + [f"Not told from it on these states: {', '.join(self.equals)}."] * bool(
            self.equals
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        about = {
            "problems": self.problems,
            "states": self.states,
            "several": self.several,
            "chosen": self.chosen,
            "equals": list(self.equals),
        }
        return {
            "provers": [each.to_json() for each in self.provers],
            **about,
            "words": self.words(),
        }


def compare_provers(found: Sequence[Branching], provers: Mapping[str, Moments]) -> ProverComparison:
    """Compare provers on forks, whose next steps the moments list fork by fork."""
    problems = sorted({fork.problem for fork in found})
    families = sorted({family for family, _ in problems})
    strata = [families.index(family) for family, _ in problems]
    where = np.array([problems.index(fork.problem) for fork in found], dtype=int)
    sums: dict[str, FloatArray] = {}
    for name, moments in provers.items():
        variance, weight = _spread(found, moments, own=True)
        covariance, _ = _spread(found, moments, own=False)
        columns = np.stack([weight, weight * variance, weight * covariance], axis=1)
        sums[name] = np.zeros((len(problems), 3))
        np.add.at(sums[name], where, columns)
    several = sum(len(fork.children) > 1 for fork in found)
    drawn = (
        {name: resampled_means(each, strata, RESAMPLES) for name, each in sums.items()}
        if problems
        else {}
    )
    points = (
        {name: stratified_mean(each, strata)[None] for name, each in sums.items()}
        if problems
        else {}
    )
    known = {name: bool(points) and points[name][0, 0] > 0 for name in provers}
    listed = tuple(
        _prover(name, points[name], drawn[name]) if known[name] else Prover(name, None, None, None)
        for name in provers
    )
    able = [each for each in listed if each.total is not None and each.name != PI]
    best = (
        max(able, key=lambda each: each.total.value if each.total else 0.0)
        if able and several >= FEWEST
        else None
    )
    equals = [
        each.name
        for each in able
        if best is not None
        and each is not best
        and not _differ(best.name, each.name, points, drawn)
    ]
    return ProverComparison(
        listed, len(problems), len(found), several, best.name if best else None, tuple(equals)
    )


def _spread(
    found: Sequence[Branching], moments: Moments, own: bool
) -> tuple[FloatArray, FloatArray]:
    """Unbiased variance of Q^mu (or its covariance with Q^pi) at each fork, and the fork's draws
    that have estimates (0: fewer than two).
    """
    x, y, xy = (
        (moments.mu, moments.mu, moments.square)
        if own
        else (moments.mu, moments.pi, moments.product)
    )
    taken = np.array([count for fork in found for count in fork.taken], dtype=float)
    group = np.repeat(np.arange(len(found)), [len(fork.children) for fork in found])
    taken = np.where(np.isfinite(x + y + xy), taken, 0.0)
    x, y, xy = (np.nan_to_num(each) for each in (x, y, xy))

    def total(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(group, values, minlength=len(found)), dtype=np.float64)

    n = total(taken)
    unlike = total(taken * (n[group] - taken) * xy) - (
        total(taken * x) * total(taken * y) - total(taken**2 * x * y)
    )
    enough = n > 1
    return np.where(enough, unlike / np.where(enough, n * (n - 1), 1.0), 0.0), np.where(
        enough, n, 0.0
    )


def _totals(sums: FloatArray) -> FloatArray:
    return np.asarray((sums[:, 1] + sums[:, 2]) / sums[:, 0])


def _prover(name: str, point: FloatArray, drawn: FloatArray) -> Prover:
    def over(statistic: Callable[[FloatArray], FloatArray]) -> Interval:
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = statistic(drawn)
            return percentile_interval(float(statistic(point)[0]), draws[np.isfinite(draws)])

    return Prover(
        name, over(lambda s: s[:, 1] / s[:, 0]), over(lambda s: s[:, 2] / s[:, 0]), over(_totals)
    )


def _differ(
    one: str, other: str, points: Mapping[str, FloatArray], drawn: Mapping[str, FloatArray]
) -> bool:
    """Whether the sums of two provers are told apart, over the same draws of problems."""
    with np.errstate(invalid="ignore", divide="ignore"):
        gap, gaps = (
            _totals(points[one]) - _totals(points[other]),
            _totals(drawn[one]) - _totals(drawn[other]),
        )
    return percentile_interval(float(gap[0]), gaps[np.isfinite(gaps)]).excludes_zero


def provers_from_predictions(
    found: Sequence[Branching], pi: Predict, ks: Sequence[float], others: Mapping[str, Predict]
) -> ProverComparison:
    """Best-of-K provers of one predictor of Q^pi, and predictors of other policies' Q by name.
    Raises `OptionError` for K below 1.
    """
    children = [child for fork in found for child in fork.children]
    base = np.asarray(pi(children), dtype=np.float64)
    provers = {best_of_name(k): Moments.predicted(best_of(base, k), base) for k in ks}
    provers |= {
        name: Moments.predicted(np.asarray(predict(children), dtype=np.float64), base)
        for name, predict in others.items()
    }
    return compare_provers(found, provers)


def provers_from_counts(
    found: Sequence[Branching], labels: Sequence[Label], ks: Sequence[float]
) -> ProverComparison:
    """Best-of-K provers, for whole K, from the counts themselves; next steps without a label are
    left out.
    """
    known = {(label.family, label.problem, label.state): label for label in labels}
    listed = [known.get((*fork.problem, child)) for fork in found for child in fork.children]
    return compare_provers(
        found, {best_of_name(k): Moments.counted(listed, int(k)) for k in ks if k == int(k)}
    )


def best_of_name(k: float) -> str:
    """What best-of-K is called."""
    best_of(0.5, k)
    return f"bo{k:g}"
