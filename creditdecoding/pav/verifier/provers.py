"""Which prover to choose, before compute is spent on it.

For actions a ~ pi at a state s, a prover mu has the distinguishability Var[A^mu(s, a)] and the
alignment E[A^mu(s, a) A^pi(s, a)]; a step of policy improvement gains at least about their sum
(arXiv 2410.08146, Theorem 3.1). At one state an advantage is Q minus a constant and A^pi has mean
0, so they are a variance and a covariance of Q^mu and Q^pi over the next steps. The next steps come
from a store: its answers form a tree of steps, and where several share a prefix their next steps
are draws from pi. States count as often as they were visited. Both are estimated without bias, from
predictions or from counts, whose noise is then removed. mu = pi adds nothing: its alignment is
Var[A^pi].
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from creditdecoding.bootstrap import FloatArray, Interval, percentile_interval
from creditdecoding.pav.data.label_store import Label
from creditdecoding.pav.problems import ProblemKey
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.metrics import ProblemBootstrap
from creditdecoding.pav.verifier.model import best_of

FEWEST = 10
"""States with several next steps that are needed to choose a prover."""
PI = "bo1"
"""The base policy itself as a prover."""

Predict = Callable[[Sequence[PartialAnswer]], Sequence[float]]


@dataclass(frozen=True)
class Branching:
    """A state visited more than once: its next steps as states, and how often each was taken."""

    problem: ProblemKey
    children: tuple[PartialAnswer, ...]
    taken: tuple[int, ...]


def branchings(labels: Sequence[Label]) -> list[Branching]:
    """The branchings of a store.

    A complete answer was drawn as often as its label says, a state that nothing continues once.
    """
    continued = {(label.key, prefix) for label in labels for prefix in label.state.prefixes[:-1]}
    taken: dict[tuple[ProblemKey, PartialAnswer], Counter[PartialAnswer]] = {}
    for label in labels:
        if (label.key, label.state) in continued:
            continue
        draws = label.draws if label.state.done else 1
        for parent, child in itertools.pairwise(label.state.prefixes):
            taken.setdefault((label.key, parent), Counter())[child] += draws
    return [
        Branching(problem, tuple(children), tuple(children.values()))
        for (problem, _), children in taken.items()
        if children.total() > 1
    ]


@dataclass(frozen=True)
class Moments:
    """Estimates for the next steps of all branchings, in order: Q^mu, its square, Q^mu Q^pi, Q^pi.

    NaN where there is no estimate.
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
        """For best-of-`k`, without bias, from counts: needs 2 `k` draws of an unfinished state."""

        def failing(tries: int) -> FloatArray:
            return np.array([chance_of_failing(label, tries) for label in labels])

        pi = 1 - failing(1)
        mu = 1 - failing(k)
        square = 1 - 2 * failing(k) + failing(2 * k)
        product = 1 - failing(1) - failing(k) + failing(k + 1)
        return cls(mu, square, product, pi)


def chance_of_failing(label: Label | None, tries: int) -> float:
    """Unbiased estimate of the chance that all of `tries` tries fail.

    NaN without a label or with fewer draws of an unfinished state.
    """
    if label is None:
        return math.nan
    if label.state.done:
        return float(label.wins < label.draws)
    if label.draws < tries:
        return math.nan
    return math.comb(label.draws - label.wins, tries) / math.comb(label.draws, tries)


@dataclass(frozen=True)
class Prover:
    """Distinguishability, alignment and their sum; None where counts do not suffice."""

    name: str
    distinguishability: Interval | None = None
    alignment: Interval | None = None
    total: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "prover": self.name,
            "distinguishability": self.distinguishability and self.distinguishability.rounded(5),
            "alignment": self.alignment and self.alignment.rounded(5),
            "total": self.total and self.total.rounded(5),
        }


@dataclass(frozen=True)
class ProverComparison:
    """Provers on `states` states visited more than once, `several` of them with different next
    steps, of `problems` problems.

    `chosen` has the greatest sum, None with too few states or no prover but the base policy.
    Those in `equals` do not differ from it measurably.
    """

    provers: tuple[Prover, ...]
    problems: int
    states: int
    several: int
    chosen: str | None
    equals: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One line: which prover to choose, or why none."""
        if self.several < FEWEST:
            return f"no choice: fewer than {FEWEST} states with several next steps"
        if self.chosen is None:
            return "no choice: the base policy as its own prover adds nothing"
        return f"choose {self.chosen}; equal within noise: {', '.join(self.equals) or 'none'}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "provers": [prover.to_json() for prover in self.provers],
            "problems": self.problems,
            "states": self.states,
            "several": self.several,
            "chosen": self.chosen,
            "equals": list(self.equals),
            "verdict": self.verdict,
        }


def compare_provers(
    branchings: Sequence[Branching], moments_of: Mapping[str, Moments]
) -> ProverComparison:
    """Compare provers by their moments of the next steps of branchings."""
    several = sum(len(branching.children) > 1 for branching in branchings)
    keys = [branching.problem for branching in branchings]
    sums: dict[str, ProblemBootstrap] = {}
    if branchings:
        for name, moments in moments_of.items():
            sums[name] = ProblemBootstrap(keys, _columns(branchings, moments))
    known = {name for name in sums if sums[name].point[0, 0] > 0}
    provers = tuple(
        _prover(name, sums[name]) if name in known else Prover(name) for name in moments_of
    )
    candidates = [prover for prover in provers if prover.name in known and prover.name != PI]
    best_prover: str | None = None
    equals: list[str] = []
    if candidates and several >= FEWEST:
        best_prover = max(candidates, key=_total_value).name
        equals = [
            prover.name
            for prover in candidates
            if prover.name != best_prover and not _differ(sums[best_prover], sums[prover.name])
        ]
    return ProverComparison(
        provers, len(set(keys)), len(branchings), several, best_prover, tuple(equals)
    )


def _columns(branchings: Sequence[Branching], moments: Moments) -> FloatArray:
    """Weight, weighted variance and weighted covariance of each branching [branchings, 3]."""
    variance, weight = spread(branchings, moments.mu, moments.mu, moments.square)
    covariance, _ = spread(branchings, moments.mu, moments.pi, moments.product)
    return np.stack([weight, weight * variance, weight * covariance], axis=1)


def spread(
    branchings: Sequence[Branching], x: FloatArray, y: FloatArray, product: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Unbiased covariance of x and y over the next steps of each branching, and its weight.

    `product` estimates x * y. The weight is the number of draws with estimates, 0 for fewer than 2.
    """
    taken = np.array([count for branching in branchings for count in branching.taken], dtype=float)
    group = np.repeat(np.arange(len(branchings)), [len(one.children) for one in branchings])
    taken = np.where(np.isfinite(x + y + product), taken, 0.0)
    x, y, product = (np.nan_to_num(values) for values in (x, y, product))

    def total(values: FloatArray) -> FloatArray:
        sums = np.bincount(group, values, minlength=len(branchings))
        return np.asarray(sums, dtype=np.float64)

    count = total(taken)
    all_pairs = total(taken * x) * total(taken * y) - total(taken**2 * x * y)
    difference = total(taken * (count[group] - taken) * product) - all_pairs
    enough = count > 1
    pairs = np.where(enough, count * (count - 1), 1.0)
    return np.where(enough, difference / pairs, 0.0), np.where(enough, count, 0.0)


def _total(sums: FloatArray) -> FloatArray:
    return np.asarray((sums[:, 1] + sums[:, 2]) / sums[:, 0])


def _total_value(prover: Prover) -> float:
    return prover.total.value if prover.total is not None else -math.inf


def _prover(name: str, sums: ProblemBootstrap) -> Prover:
    return Prover(
        name,
        distinguishability=sums.interval(lambda s: np.asarray(s[:, 1] / s[:, 0])),
        alignment=sums.interval(lambda s: np.asarray(s[:, 2] / s[:, 0])),
        total=sums.interval(_total),
    )


def _differ(first: ProblemBootstrap, second: ProblemBootstrap) -> bool:
    """Whether the sums of two provers differ, over the same resamples of problems."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = _total(first.point) - _total(second.point)
        draws = _total(first.draws) - _total(second.draws)
    return percentile_interval(float(value[0]), draws[np.isfinite(draws)]).excludes_zero


def provers_from_predictions(
    branchings: Sequence[Branching],
    pi: Predict,
    ks: Sequence[float],
    others: Mapping[str, Predict],
) -> ProverComparison:
    """Best-of-K provers of one predictor of Q^pi, and predictors of other policies' Q by name.

    Raises `OptionError` for K below 1.
    """
    children = [child for branching in branchings for child in branching.children]
    base = np.asarray(pi(children), dtype=np.float64)
    provers = {best_of_name(k): Moments.predicted(best_of(base, k), base) for k in ks}
    for name, predict in others.items():
        mu = np.asarray(predict(children), dtype=np.float64)
        provers[name] = Moments.predicted(mu, base)
    return compare_provers(branchings, provers)


def provers_from_counts(
    branchings: Sequence[Branching], labels: Sequence[Label], ks: Sequence[float]
) -> ProverComparison:
    """Best-of-K provers, for whole K, from counts; next steps without a label are left out."""
    label_of = {(label.key, label.state): label for label in labels}
    counted = [
        label_of.get((branching.problem, child))
        for branching in branchings
        for child in branching.children
    ]
    whole = [int(k) for k in ks if k == int(k)]
    return compare_provers(
        branchings, {best_of_name(k): Moments.counted(counted, k) for k in whole}
    )


def best_of_name(k: float) -> str:
    """The name of best-of-K. Raises `OptionError` for K below 1."""
    best_of(0.5, k)
    return f"bo{k:g}"
