"""What the lines of a comparison of searches say: accuracy against compute, and one method against
another at equal compute or accuracy.

Compute is the policy's and the verifier's sequence-forwards together, tokens, or seconds, as means
a problem. Intervals are over problems, the same resamples for all methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from creditdecoding.bootstrap import (
    FloatArray,
    Interval,
    area_under_curve,
    areas_under_curves,
    percentile_interval,
    resampled_means,
    stratified_mean,
)
from creditdecoding.eval.words import signed
from creditdecoding.pav.search.best_of_n import JUDGED, PICKS, SampledAnswer
from creditdecoding.pav.search.compare import POOL, SearchPlan, configured
from creditdecoding.pav.search.costs import verifier_sequences

RESAMPLES = 2_000
BASELINE = "best_of_n"
MEASURES = ("sequences", "tokens", "seconds")
NAMES = {"sequences": "sequence-forwards", "tokens": "tokens", "seconds": "seconds"}
_FIELDS = ("score", "policy", "verifier", "tokens", "seconds")
_SCORE, _POLICY, _VERIFIER, _TOKENS, _SECONDS = range(5)


def accuracy(
    lines: Sequence[Mapping[str, Any]], names: Sequence[str], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """How often the answers of lines are right, with the interval over problems, and mean costs;
    the same by family.
    """

    def of(mine: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        values = np.array([_numbers(line) for line in mine])
        strata = [names.index(line["family"]) for line in mine]
        means, draws = stratified_mean(values, strata), resampled_means(values, strata, resamples)
        return {"problems": len(mine), **_numbered(means, draws)}

    return {
        **of(lines),
        "families": {
            name: of([line for line in lines if line["family"] == name]) for name in names
        },
    }


def _numbers(line: Mapping[str, Any]) -> tuple[float, ...]:
    return (
        100.0 * line["right"],
        line["sequences"],
        line["verifier_sequences"],
        line["tokens"],
        line["seconds"],
    )


@dataclass(frozen=True)
class SearchCurve:
    """A method at its budgets: for each problem [problems, budgets, fields] means over seeds."""

    name: str
    sizes: tuple[int, ...]
    values: FloatArray


@dataclass(frozen=True)
class CurveEstimate:
    """A curve's means [budgets, fields] and their resamples [resamples, budgets, fields]."""

    name: str
    sizes: tuple[int, ...]
    means: FloatArray
    draws: FloatArray

    def cost(self, measure: str) -> tuple[FloatArray, FloatArray]:
        """Compute [budgets] and [resamples, budgets]."""
        return _cost(self.means, measure), _cost(self.draws, measure)

    @property
    def score(self) -> tuple[FloatArray, FloatArray]:
        """Accuracy in percent, likewise."""
        return self.means[..., _SCORE], self.draws[..., _SCORE]


def _cost(values: FloatArray, measure: str) -> FloatArray:
    if measure == "sequences":
        return values[..., _POLICY] + values[..., _VERIFIER]
    found: FloatArray = np.maximum(
        values[..., _FIELDS.index(measure)], 1e-9
    )  # it is drawn in logarithms
    return found


def curves(plan: SearchPlan, records: Iterable[Mapping[str, Any]]) -> list[SearchCurve]:
    """The curves of a run's lines."""
    place = {key: number for number, key in enumerate(plan.items)}
    sums = {
        name: np.zeros((len(place), len(_sizes(plan, name)), len(_FIELDS))) for name in _names(plan)
    }
    for line in records:
        row = place[line["family"], line["item"]]
        if line["method"] == POOL:
            for name, spec, rated in _read_from(plan):
                for number, n in enumerate(_sizes(plan, name)):
                    sums[name][row, number] += chosen(line, spec, n, rated)
        else:
            sums[line["method"]][row, plan.steps.index(line["n"])] += _numbers(line)
    return [
        SearchCurve(name, _sizes(plan, name), found / plan.seeds) for name, found in sums.items()
    ]


def _names(plan: SearchPlan) -> list[str]:
    return [*plan.searches, *(name for name, _, _ in _read_from(plan))]


def _sizes(plan: SearchPlan, name: str) -> tuple[int, ...]:
    if name in plan.searches:
        return plan.steps
    return (1,) if name == "single" else plan.sizes


def _read_from(plan: SearchPlan) -> Iterator[tuple[str, str, str]]:
    """The curves that are read from pools: their name, what picks, and whose word on the answers
    counts ("" for nobody's).
    """
    for spec in plan.picks:
        judged = configured(spec).method in JUDGED
        if judged and plan.outcome:
            yield spec, spec, "outcome"
            yield f"{spec} (--verifier)", spec, "verifier"
        else:
            yield spec, spec, "verifier" if judged else ""


def chosen(line: Mapping[str, Any], spec: str, n: int, rated: str) -> tuple[float, ...]:
    """Score in percent and costs of choosing among `n` answers of a pool.

    Means over as many disjoint groups as it has. `rated` names the verifier whose word counts.
    """
    pick = PICKS[configured(spec).method]
    count = len(line["right"])
    qs = line[rated] if rated else [0.0] * count
    columns = zip(line["vote"], line["logprob"], line["tokens"], qs)
    samples = [SampledAnswer(*column) for column in columns]
    groups = [range(start, start + n) for start in range(0, count - n + 1, n)]
    sums = np.zeros(len(_FIELDS))
    for group in groups:
        best = group[pick([samples[place] for place in group])]
        sums += (100.0 * line["right"][best], *_group_costs(line, group, bool(rated)))
    return tuple((sums / len(groups)).tolist())


def _group_costs(line: Mapping[str, Any], group: range, rated: bool) -> tuple[float, ...]:
    """What some answers of a pool cost: the policy's and the verifier's sequences, tokens, seconds.

    A pass that several have in common runs once, and of equal answers a verifier reads one.
    """
    whole = len({key for passes in line["passes"] for key in passes})
    passes = len({key for place in group for key in line["passes"][place]})
    rows = len({line["same"][place] for place in group}) if rated else 0
    return (
        passes * line["sequences_a_pass"],
        verifier_sequences(rows),
        sum(line["tokens"][place] for place in group),
        line["seconds"] * passes / whole + line["verifier_seconds"] * rows,
    )


def summarise(
    plan: SearchPlan, records: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The report as JSON-ready data."""
    found = curves(plan, records)
    strata = [[family.name for family in plan.families].index(family) for family, _ in plan.items]
    whole = np.concatenate([curve.values for curve in found], axis=1)
    means = stratified_mean(whole.reshape(len(whole), -1), strata).reshape(whole.shape[1:])
    draws = resampled_means(whole.reshape(len(whole), -1), strata, resamples).reshape(
        resamples, *whole.shape[1:]
    )
    lines, at = [], 0
    for curve in found:
        here = slice(at, at := at + len(curve.sizes))
        lines.append(CurveEstimate(curve.name, curve.sizes, means[here], draws[:, here]))
    rest = [line for line in lines if line.name not in plan.searches and len(line.sizes) > 1]
    pairs = [(line, other) for line in lines if line.name in plan.searches for other in rest]
    report = {
        "curves": [
            {
                "method": line.name,
                "points": [
                    {"n": n, **_numbered(line.means[i], line.draws[:, i])}
                    for i, n in enumerate(line.sizes)
                ],
            }
            for line in lines
        ],
        "against": [against(line, other, measure) for line, other in pairs for measure in MEASURES],
        "families": {family.name: _alone(records, family.name) for family in plan.families},
        "problems": len(strata),
        "seeds": plan.seeds,
        "resamples": resamples,
    }
    return {**report, "words": words(report)}


def _alone(records: Iterable[Mapping[str, Any]], family: str) -> float | None:
    """How often one answer of a family is right, in percent: the mean over its pools."""
    shares = [
        100.0 * sum(line["right"]) / len(line["right"])
        for line in records
        if line["method"] == POOL and line["family"] == family
    ]
    return round(sum(shares) / len(shares), 2) if shares else None


def _numbered(means: FloatArray, draws: FloatArray) -> dict[str, Any]:
    """Means and resamples of the fields as a record."""
    return {
        "score": percentile_interval(means[_SCORE], draws[:, _SCORE]).rounded(2),
        "sequences": round(float(means[_POLICY] + means[_VERIFIER]), 3),
        "policy_sequences": round(float(means[_POLICY]), 3),
        "verifier_sequences": round(float(means[_VERIFIER]), 3),
        "tokens": round(float(means[_TOKENS]), 2),
        "seconds": round(float(means[_SECONDS]), 5),
    }


def against(line: CurveEstimate, other: CurveEstimate, measure: str) -> dict[str, Any]:
    """A method against another: its points held against the other's curve, which is linear in the
    logarithm of compute.

    `difference` in points of accuracy at equal compute (`inside`: the other was run at as much and
    as little), `ratio`: how many times as much
    the other takes for the same accuracy (None: it never gets there), `range`: the mean difference
    over the compute that both were run at.
    """
    (cost, costs), (score, scores) = line.cost(measure), line.score
    (cost0, costs0), (score0, scores0) = other.cost(measure), other.score
    level = np.array([at_equal_compute(*each) for each in zip(costs, costs0, scores0)])
    gains = scores - level
    ratios = np.array([at_equal_accuracy(*each) for each in zip(scores, costs0, scores0)]) / costs
    gain, ratio = (
        score - at_equal_compute(cost, cost0, score0),
        at_equal_accuracy(score, cost0, score0) / cost,
    )
    points = [
        {
            "n": n,
            "compute": round(float(cost[i]), 4),
            "inside": bool(cost0[0] <= cost[i] <= cost0[-1]),
            "difference": percentile_interval(gain[i], gains[:, i]).rounded(2),
            "ratio": _finite(float(ratio[i]), ratios[:, i]),
        }
        for i, n in enumerate(line.sizes)
    ]
    low, high = max(cost.min(), cost0.min()), min(cost.max(), cost0.max())
    over = None
    if low < high:
        apart = area_under_curve(cost, score, low, high) - area_under_curve(
            cost0, score0, low, high
        )
        drawn = areas_under_curves(costs, scores, low, high) - areas_under_curves(
            costs0, scores0, low, high
        )
        over = {
            "from": round(float(low), 4),
            "to": round(float(high), 4),
            "difference": percentile_interval(apart, drawn).rounded(2),
        }
    return {
        "method": line.name,
        "baseline": other.name,
        "measure": measure,
        "points": points,
        "range": over,
    }


def at_equal_compute(cost: FloatArray, costs: FloatArray, scores: FloatArray) -> FloatArray:
    """The height of the curve through (costs, scores) at each of `cost`; level beyond its ends."""
    order = np.argsort(costs)
    return np.interp(np.log(cost), np.log(costs[order]), scores[order])


def at_equal_accuracy(score: FloatArray, costs: FloatArray, scores: FloatArray) -> FloatArray:
    """The compute at which the curve first reaches each of `score`; its first point's where that is
    higher, infinite where it never does.
    """
    order = np.argsort(costs)
    logs, best = np.log(costs[order]), np.maximum.accumulate(scores[order])
    found = np.searchsorted(best, score - 1e-9)
    reach = []
    for value, at in zip(score, found):
        if at in (0, len(best)):
            reach.append(float(np.exp(logs[0])) if at == 0 else math.inf)
            continue
        share = (value - best[at - 1]) / (best[at] - best[at - 1])
        reach.append(float(np.exp(logs[at - 1] + share * (logs[at] - logs[at - 1]))))
    return np.array(reach)


def _finite(value: float, draws: FloatArray) -> dict[str, float | None]:
    """An interval whose ends may be infinite, which JSON has no number for: None."""
    low, high = np.percentile(draws, [2.5, 97.5], method="nearest")
    rounded = Interval(value, float(low), float(high)).rounded(3)
    return {name: number if math.isfinite(number) else None for name, number in rounded.items()}


def words(report: Mapping[str, Any]) -> list[str]:
    """The findings over the whole range of sequence-forwards, a sentence a method."""
    found = []
    for each in report["against"]:
        if (
            each["baseline"] == BASELINE
            and each["measure"] == "sequences"
            and each["range"] is not None
        ):
            over = each["range"]
            text = f"{each['method']} against {BASELINE}: {signed(over['difference'])} points of accuracy on average"
            found.append(
                f"{text} between {over['from']:.0f} and {over['to']:.0f} sequence-forwards a problem."
            )
    return found
