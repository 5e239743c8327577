"""Whether another decoder labels the same states alike, and what it costs: both draw anew for a
sample of the states of a store.

Under the null hypothesis that both label alike, each state's wins are dealt out to them at random.
Two numbers are held to that: the mean difference,
with an interval over problems, and the scatter, the mean over states of the squared difference in
units of its variance, which is 1. Leaves to
others: drawing (rollouts.py), intervals (eval/statistics.py).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from creditdecoding.bootstrap import Interval, percentile_interval, resampled_means, stratified_mean
from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM
from creditdecoding.pav.data.collect import run
from creditdecoding.pav.data.label_store import Label, LabelCost, ProblemKey
from creditdecoding.pav.data.strategies import Plan, Problem, seed_of
from creditdecoding.pav.steps import PartialAnswer

DEALS = 2_000


@dataclass(frozen=True)
class Scatter:
    """How far two labels of a state lie apart, over `states` whose wins are neither none nor all: 1
    is what chance makes of equal ones.

    `p` is the share of random deals of the same wins that are scattered at least as far.
    """

    states: int
    value: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """Labels against others of the same states: mean difference (points of success, theirs minus
    ours) and scatter.
    """

    difference: Interval
    scatter: Scatter

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        scatter = {
            "states": self.scatter.states,
            "value": round(self.scatter.value, 3),
            "p": round(self.scatter.p, 4),
        }
        return {"difference": self.difference.rounded(2), "scatter": scatter}


@dataclass(frozen=True)
class Agreement:
    """Two decoders on the same states: what each computed, their labels against each other, and our
    labels against our own, drawn again.
    """

    ours: LabelCost
    theirs: LabelCost
    states: int
    problems: int
    success: tuple[float, float]
    between: Comparison
    again: Comparison

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record; success and differences in points."""
        ours, theirs = self.ours.to_json(), self.theirs.to_json()
        times = {
            name: round(theirs[name] / ours[name], 3)
            for name in ("passes", "sequences", "positions", "seconds")
        }
        success = [round(100 * value, 2) for value in self.success]
        labels = {
            "success": success,
            "between": self.between.to_json(),
            "again": self.again.to_json(),
        }
        return {
            "states": self.states,
            "problems": self.problems,
            "ours": ours,
            "theirs": theirs,
            "times": times,
            **labels,
        }


def chosen(labels: Iterable[Label], limit: int, seed: int) -> list[Label]:
    """At most `limit` labels of states that are not complete, in a random order, of as many
    problems as possible.
    """
    drawn = sorted(
        (label for label in labels if not label.state.done),
        key=lambda label: seed_of(seed, "chosen", vars(label)),
    )
    seen: dict[ProblemKey, int] = defaultdict(int)
    rounds = []
    for label in drawn:
        key = (label.family, label.problem)
        rounds.append((seen[key], label))
        seen[key] += 1
    return [label for _, label in sorted(rounds, key=lambda each: each[0])[:limit]]


def agree(
    lm: LM,
    problems: Iterable[Problem],
    labels: Sequence[Label],
    generation: GenerationConfig,
    decoder: Any,
    batch_size: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Agreement:
    """Draw completions of labelled states anew with the decoder of `generation` and with `decoder`,
    as many as each label has.
    """
    by_key = {problem.key: problem for problem in problems}

    def plans(what: str, wanted: Sequence[Label]) -> list[tuple[Problem, Plan]]:
        return [
            (
                problem := by_key[label.family, label.problem],
                _completions(problem, label, what, generation.seed),
            )
            for label in wanted
        ]

    def drawn(what: str, rule: Any) -> tuple[list[Label], LabelCost]:
        config = dataclasses.replace(generation, decoder=rule)
        list(
            run(lm, plans("warm", labels[:1]), config, batch_size)
        )  # what is compiled at first use is not timed
        found: dict[tuple[ProblemKey, PartialAnswer], Label] = {}
        bill = LabelCost()
        for each in run(lm, plans(what, labels), config, batch_size):
            bill += each.bill
            found |= {(each.key, label.state): label for label in each.labels}
            tick()
        return [found[(label.family, label.problem), label.state] for label in labels], bill

    ours, our_bill = drawn("again", generation.decoder)
    theirs, their_bill = drawn("against", decoder)
    count = len({(label.family, label.problem) for label in labels})
    success = _success(ours), _success(theirs)
    return Agreement(
        our_bill,
        their_bill,
        len(labels),
        count,
        success,
        compared(ours, theirs),
        compared(labels, ours),
    )


def _completions(problem: Problem, label: Label, what: str, seed: int) -> Plan:
    drawn = yield problem.asks(label.state, what, label.draws, seed)
    return [problem.label(label.state, drawn)]


def _success(labels: Sequence[Label]) -> float:
    return sum(label.value for label in labels) / len(labels)


def compared(ours: Sequence[Label], theirs: Sequence[Label]) -> Comparison:
    """Two labels of each state, in the same order: states count within their problem, problems
    within their family.
    """
    apart: dict[ProblemKey, list[float]] = defaultdict(list)
    for one, other in zip(ours, theirs):
        apart[one.family, one.problem].append(100 * (other.value - one.value))
    values = np.array([[sum(each) / len(each)] for each in apart.values()])
    names = {
        family: place for place, family in enumerate(dict.fromkeys(family for family, _ in apart))
    }
    strata = [names[family] for family, _ in apart]
    difference = percentile_interval(
        float(stratified_mean(values, strata)[0]), resampled_means(values, strata)[:, 0]
    )
    counts = np.array(
        [(one.wins, one.draws, other.wins, other.draws) for one, other in zip(ours, theirs)]
    )
    return Comparison(difference, scatter(counts))


def scatter(counts: np.ndarray[Any, Any], seed: int = 0) -> Scatter:
    """Of wins and draws, wins and draws [states, 4]."""
    wins, draws = counts[:, 0] + counts[:, 2], counts[:, 1] + counts[:, 3]
    open_ = (wins > 0) & (wins < draws)
    first, mine, wins, draws = counts[open_, 0], counts[open_, 1], wins[open_], draws[open_]
    if not len(first):
        return Scatter(0, 1.0, 1.0)
    expected, variance = (
        mine * wins / draws,
        mine * (draws - mine) * wins * (draws - wins) / (draws**2 * (draws - 1.0)),
    )
    value = float(np.mean((first - expected) ** 2 / variance))
    dealt = np.random.default_rng(seed).hypergeometric(
        wins, draws - wins, mine, size=(DEALS, len(first))
    )
    chance = np.mean((dealt - expected) ** 2 / variance, axis=1)
    return Scatter(len(first), value, float((1 + np.sum(chance >= value - 1e-9)) / (1 + DEALS)))
