"""The report of a comparison of searches: accuracy against compute, and methods against each other.

Compute is the sequence-forwards of policy and verifier together, tokens, or seconds, as means a
problem. Intervals are over problems, with the same resamples for all methods.
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
from creditdecoding.pav.search.best_of_n import PICKS, SCORED_PICKS, SampledAnswer
from creditdecoding.pav.search.compare import POOL, SearchPlan, parse_method
from creditdecoding.pav.search.costs import verifier_sequences

RESAMPLES = 2_000
MEASURES = ("sequences", "tokens", "seconds")
FIELDS = ("score", "policy", "verifier", "tokens", "seconds")
SCORE, POLICY, VERIFIER, TOKENS, SECONDS = range(5)
SMALLEST_COST = 1e-9  # curves are drawn over the logarithm of cost


def accuracy(
    records: Sequence[Mapping[str, Any]], tasks: Sequence[str], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """How often answers are right, with intervals over problems, and mean costs; also by task."""
    by_task = {
        task: _accuracy_of(
            [record for record in records if record["family"] == task], tasks, resamples
        )
        for task in tasks
    }
    return {**_accuracy_of(records, tasks, resamples), "families": by_task}


def _accuracy_of(
    records: Sequence[Mapping[str, Any]], tasks: Sequence[str], resamples: int
) -> dict[str, Any]:
    values = np.array([_record_numbers(record) for record in records])
    strata = [tasks.index(record["family"]) for record in records]
    means = stratified_mean(values, strata)
    draws = resampled_means(values, strata, resamples)
    return {"problems": len(records), **_point(means, draws)}


def _record_numbers(record: Mapping[str, Any]) -> tuple[float, ...]:
    """The fields of a line in the order of `FIELDS`."""
    return (
        100.0 * record["right"],
        record["sequences"],
        record["verifier_sequences"],
        record["tokens"],
        record["seconds"],
    )


@dataclass(frozen=True)
class SearchCurve:
    """A method at its budgets: means over seeds [problems, budgets, fields]."""

    name: str
    sizes: tuple[int, ...]
    values: FloatArray


@dataclass(frozen=True)
class CurveEstimate:
    """Means over problems [budgets, fields] and their resamples [resamples, budgets, fields]."""

    name: str
    sizes: tuple[int, ...]
    means: FloatArray
    draws: FloatArray

    def cost(self, measure: str) -> tuple[FloatArray, FloatArray]:
        """Compute [budgets] and its resamples [resamples, budgets]."""
        return _cost(self.means, measure), _cost(self.draws, measure)

    @property
    def score(self) -> tuple[FloatArray, FloatArray]:
        """Accuracy in percent, and its resamples."""
        return self.means[..., SCORE], self.draws[..., SCORE]


def _cost(values: FloatArray, measure: str) -> FloatArray:
    if measure == "sequences":
        return values[..., POLICY] + values[..., VERIFIER]
    return np.asarray(np.maximum(values[..., FIELDS.index(measure)], SMALLEST_COST))


@dataclass(frozen=True)
class PoolMethod:
    """A curve that is read from pools: its name, its spec, and the column with Q^pi."""

    name: str
    spec: str
    q_column: str


def _pool_methods(plan: SearchPlan) -> Iterator[PoolMethod]:
    for spec in plan.picks:
        scored = parse_method(spec).method in SCORED_PICKS
        if scored and plan.outcome:
            yield PoolMethod(spec, spec, "outcome")
            yield PoolMethod(f"{spec} (--verifier)", spec, "verifier")
        else:
            yield PoolMethod(spec, spec, "verifier" if scored else "")


def search_curves(plan: SearchPlan, records: Iterable[Mapping[str, Any]]) -> list[SearchCurve]:
    """The curves of a run's lines."""
    pool_methods = list(_pool_methods(plan))
    budgets = dict.fromkeys(plan.searches, plan.step_budgets)
    for method in pool_methods:
        budgets[method.name] = (1,) if method.name == "single" else plan.sizes
    row_of = {key: row for row, key in enumerate(plan.items)}
    sums = {
        name: np.zeros((len(row_of), len(sizes), len(FIELDS))) for name, sizes in budgets.items()
    }
    for record in records:
        row = row_of[record["family"], record["item"]]
        if record["method"] != POOL:
            column = plan.step_budgets.index(record["n"])
            sums[record["method"]][row, column] += _record_numbers(record)
            continue
        for method in pool_methods:
            for column, n in enumerate(budgets[method.name]):
                sums[method.name][row, column] += pick_from_pool(
                    record, method.spec, n, method.q_column
                )
    return [SearchCurve(name, budgets[name], total / plan.seeds) for name, total in sums.items()]


def pick_from_pool(
    record: Mapping[str, Any], spec: str, n: int, q_column: str
) -> tuple[float, ...]:
    """Score in percent and costs of choosing among `n` answers of a pool.

    Means over as many disjoint groups of `n` as the pool has. `q_column` names the verifier used.
    """
    pick = PICKS[parse_method(spec).method]
    count = len(record["right"])
    q = record[q_column] if q_column else [0.0] * count
    columns = zip(record["vote"], record["logprob"], record["tokens"], q)
    answers = [SampledAnswer(*column) for column in columns]
    groups = [range(start, start + n) for start in range(0, count - n + 1, n)]
    sums = np.zeros(len(FIELDS))
    for group in groups:
        picked = group[pick([answers[index] for index in group])]
        right = 100.0 * record["right"][picked]
        sums += (right, *_group_costs(record, group, bool(q_column)))
    return tuple((sums / len(groups)).tolist())


def _group_costs(record: Mapping[str, Any], group: range, scored: bool) -> tuple[float, ...]:
    """Sequences of policy and verifier, tokens and seconds of some answers of a pool.

    A pass that several have in common runs once; a verifier reads equal answers once.
    """
    all_passes = len({key for passes in record["passes"] for key in passes})
    passes = len({key for index in group for key in record["passes"][index]})
    rows = len({record["same"][index] for index in group}) if scored else 0
    return (
        passes * record["sequences_a_pass"],
        verifier_sequences(rows),
        sum(record["tokens"][index] for index in group),
        record["seconds"] * passes / all_passes + record["verifier_seconds"] * rows,
    )


def summarise(
    plan: SearchPlan, records: Sequence[Mapping[str, Any]], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The report as JSON-ready data."""
    estimates = _estimates(plan, records, resamples)
    searches = [estimate for estimate in estimates if estimate.name in plan.searches]
    baselines = [
        estimate
        for estimate in estimates
        if estimate.name not in plan.searches and len(estimate.sizes) > 1
    ]
    return {
        "curves": [
            {"method": estimate.name, "points": _points(estimate)} for estimate in estimates
        ],
        "against": [
            compare_curves(search, baseline, measure)
            for search in searches
            for baseline in baselines
            for measure in MEASURES
        ],
        "families": {task.name: _single_accuracy(records, task.name) for task in plan.tasks},
        "problems": len(plan.items),
        "seeds": plan.seeds,
        "resamples": resamples,
    }


def _estimates(
    plan: SearchPlan, records: Sequence[Mapping[str, Any]], resamples: int
) -> list[CurveEstimate]:
    """Means and resamples of all curves, over the same draws of problems."""
    curves = search_curves(plan, records)
    names = [task.name for task in plan.tasks]
    strata = [names.index(name) for name, _ in plan.items]
    values = np.concatenate([curve.values for curve in curves], axis=1)
    shape = values.shape[1:]
    flat = values.reshape(len(values), -1)
    means = stratified_mean(flat, strata).reshape(shape)
    draws = resampled_means(flat, strata, resamples).reshape(resamples, *shape)
    estimates = []
    start = 0
    for curve in curves:
        end = start + len(curve.sizes)
        estimates.append(
            CurveEstimate(curve.name, curve.sizes, means[start:end], draws[:, start:end])
        )
        start = end
    return estimates


def _points(estimate: CurveEstimate) -> list[dict[str, Any]]:
    return [
        {"n": n, **_point(estimate.means[i], estimate.draws[:, i])}
        for i, n in enumerate(estimate.sizes)
    ]


def _point(means: FloatArray, draws: FloatArray) -> dict[str, Any]:
    """Means [fields] and resamples [resamples, fields] as a record."""
    return {
        "score": percentile_interval(means[SCORE], draws[:, SCORE]).rounded(2),
        "sequences": round(float(means[POLICY] + means[VERIFIER]), 3),
        "policy_sequences": round(float(means[POLICY]), 3),
        "verifier_sequences": round(float(means[VERIFIER]), 3),
        "tokens": round(float(means[TOKENS]), 2),
        "seconds": round(float(means[SECONDS]), 5),
    }


def _single_accuracy(records: Iterable[Mapping[str, Any]], task: str) -> float | None:
    """How often one answer of a task is right, in percent: the mean over its pools."""
    shares = [
        100.0 * sum(record["right"]) / len(record["right"])
        for record in records
        if record["method"] == POOL and record["family"] == task
    ]
    return round(sum(shares) / len(shares), 2) if shares else None


def compare_curves(search: CurveEstimate, baseline: CurveEstimate, measure: str) -> dict[str, Any]:
    """The points of a search against the baseline's curve, linear in the logarithm of compute.

    `difference`: points of accuracy at equal compute (`inside`: within the baseline's budgets).
    `ratio`: how many times as much the baseline takes for the same accuracy, None if it never gets
    there. `range`: the mean difference over the compute at which both were run.
    """
    cost, costs = search.cost(measure)
    score, scores = search.score
    base_cost, base_costs = baseline.cost(measure)
    base_score, base_scores = baseline.score
    difference = score - at_equal_compute(cost, base_cost, base_score)
    ratio = at_equal_accuracy(score, base_cost, base_score) / cost
    differences = scores - np.array(
        [at_equal_compute(*draw) for draw in zip(costs, base_costs, base_scores)]
    )
    ratios = np.array([at_equal_accuracy(*draw) for draw in zip(scores, base_costs, base_scores)])
    ratios = ratios / costs
    points = [
        {
            "n": n,
            "compute": round(float(cost[i]), 4),
            "inside": bool(base_cost[0] <= cost[i] <= base_cost[-1]),
            "difference": percentile_interval(difference[i], differences[:, i]).rounded(2),
            "ratio": _finite_interval(float(ratio[i]), ratios[:, i]),
        }
        for i, n in enumerate(search.sizes)
    ]
    return {
        "method": search.name,
        "baseline": baseline.name,
        "measure": measure,
        "points": points,
        "range": _mean_difference(search, baseline, measure),
    }


def _mean_difference(
    search: CurveEstimate, baseline: CurveEstimate, measure: str
) -> dict[str, Any] | None:
    """The mean difference over the compute at which both were run; None if there is none."""
    cost, costs = search.cost(measure)
    base_cost, base_costs = baseline.cost(measure)
    low = max(cost.min(), base_cost.min())
    high = min(cost.max(), base_cost.max())
    if low >= high:
        return None
    (score, scores), (base_score, base_scores) = search.score, baseline.score
    value = area_under_curve(cost, score, low, high)
    value -= area_under_curve(base_cost, base_score, low, high)
    draws = areas_under_curves(costs, scores, low, high)
    draws = draws - areas_under_curves(base_costs, base_scores, low, high)
    return {
        "from": round(float(low), 4),
        "to": round(float(high), 4),
        "difference": percentile_interval(value, draws).rounded(2),
    }


def at_equal_compute(cost: FloatArray, costs: FloatArray, scores: FloatArray) -> FloatArray:
    """The height of the curve through (costs, scores) at each `cost`; constant beyond its ends."""
    order = np.argsort(costs)
    return np.interp(np.log(cost), np.log(costs[order]), scores[order])


def at_equal_accuracy(score: FloatArray, costs: FloatArray, scores: FloatArray) -> FloatArray:
    """The compute at which the curve first reaches each `score`.

    That of its first point if this is higher, infinite if the curve never gets there.
    """
    order = np.argsort(costs)
    log_costs = np.log(costs[order])
    best = np.maximum.accumulate(scores[order])
    reached = []
    for value, index in zip(score, np.searchsorted(best, score - 1e-9)):
        if index == len(best):
            reached.append(math.inf)
        elif index == 0:
            reached.append(float(np.exp(log_costs[0])))
        else:
            share = (value - best[index - 1]) / (best[index] - best[index - 1])
            step = log_costs[index] - log_costs[index - 1]
            reached.append(float(np.exp(log_costs[index - 1] + share * step)))
    return np.array(reached)


def _finite_interval(value: float, draws: FloatArray) -> dict[str, float | None]:
    """An interval whose infinite ends become None, as JSON has no number for them."""
    low, high = np.percentile(draws, [2.5, 97.5], method="nearest")
    rounded = Interval(value, float(low), float(high)).rounded(3)
    return {name: number if math.isfinite(number) else None for name, number in rounded.items()}
