"""The report of runs of the didactic task: curves, updates until success, Pass@N, and provers.

Intervals are 95 % over seeds: of means by bootstrap; of medians by order statistics, which holds
for any distribution, counts a run that never arrived as later than all others, and needs six seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from creditdecoding.bootstrap import AREA_RESAMPLES, percentile_interval, resampled_means
from experiments.didactic.options import Cell, DidacticConfig
from experiments.didactic.run import Run, settings
from experiments.didactic.task import Task
from experiments.didactic.values import estimated, exact, measures

SAMPLES = tuple(2**power for power in range(17))
"""N of Pass@N."""


def report(config: DidacticConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """A JSON-ready record of all cells and provers."""
    cells = [
        _cell(cell, [run for run in runs if (run.arm, run.strength) == cell], config)
        for cell in config.cells()
    ]
    strengths = sorted({strength for _, strength in config.cells() if strength is not None})
    settings_json = {
        **settings(config),
        "seeds": list(config.all_seeds()),
        "pass_at": config.pass_at,
    }
    before = _pass_at(list({run.seed: run.success[0] for run in runs}.values()))
    return {
        "settings": settings_json,
        "provers": [prover(strength, config) for strength in strengths],
        "before": before,
        "cells": cells,
    }


def prover(strength: float, config: DidacticConfig) -> dict[str, Any]:
    """What a prover is worth: chance of success, exactly and by rollouts, and how far rollouts are
    off at most, over all Q.

    Also what the right first token gains; distinguishability and alignment under the policy that
    fine-tuning imitates, summed and at the first step.
    """
    task = Task()
    policy = task.prover(strength)
    values, rough = exact(task, policy), estimated(task, policy, config.check_rollouts, config.seed)
    half = (
        float(
            (policy[0] ** 2 * values.q[0, 0] * (1 - values.q[0, 0]))
            .sum()
            .div(config.check_rollouts)
            .sqrt()
        )
        * 1.96
    )
    by_rollouts = {
        "value": rough.success,
        "low": max(0.0, rough.success - half),
        "high": min(1.0, rough.success + half),
    }
    prover_record = {
        "strength": strength,
        "success": values.success,
        "by_rollouts": by_rollouts,
        "q_off": float((rough.q - values.q).abs().max()),
    }
    measured = measures(task, task.prover(config.sft_strength), policy)
    prover_record["first_gain"] = float(values.a[0, 0, task.planted[0]])
    for name in ("distinguishability", "alignment"):
        steps = getattr(measured, name)
        prover_record |= {name: float(steps.sum()), f"{name}_first": float(steps[0])}
    return prover_record


def _cell(cell: Cell, runs: Sequence[Run], config: DidacticConfig) -> dict[str, Any]:
    levels = {"half": 0.5, "most": 0.95, "solved": config.solved}
    return {
        "arm": cell[0],
        "strength": cell[1],
        "runs": len(runs),
        "solved": sum(run.reached(config.solved) is not None for run in runs),
        "final": _mean([run.success[-1] for run in runs]),
        "updates": {
            name: median([_number(run.reached(level)) for run in runs])
            for name, level in levels.items()
        },
        "sequences_per_update": round(
            float(np.mean([run.sequences / max(1, run.iterations[-1]) for run in runs])), 1
        ),
        "curve": _curve(runs),
        "pass_at": _pass_at([run.at(config.pass_at) for run in runs]),
    }


def _pass_at(chances: Sequence[float]) -> dict[str, Any]:
    """Success and Pass@N, means over runs."""
    curve = [_mean([pass_at(chance, count) for chance in chances]) for count in SAMPLES]
    return {"success": _mean(chances), "samples": list(SAMPLES), "pass": curve}


def _number(update: int | None) -> float:
    return math.inf if update is None else float(update)


def median(values: Sequence[float]) -> dict[str, float | None]:
    """Median and 95% interval; infinite ends are None, as are both ends below six values (`known`
    is False).
    """
    ordered, count = sorted(values), len(values)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    tail, rank = 0.5**count, 0
    while tail <= 0.025 and rank < count:
        rank += 1
        tail += math.comb(count, rank) * 0.5**count
    low, high = (ordered[rank - 1], ordered[count - rank]) if rank else (-math.inf, math.inf)
    shown = {"value": middle, "low": low, "high": high}
    return {name: value if math.isfinite(value) else None for name, value in shown.items()} | {
        "known": rank > 0
    }


def pass_at(chance: float, count: int) -> float:
    """The chance that one of `count` independent samples succeeds."""
    return 1.0 if chance >= 1 else -math.expm1(count * math.log1p(-max(0.0, chance)))


def _mean(values: Sequence[float]) -> dict[str, float]:
    columns = np.array(values, dtype=np.float64)[:, None]
    interval = percentile_interval(
        float(columns.mean()), resampled_means(columns, [0] * len(values), AREA_RESAMPLES)[:, 0]
    )
    return {name: float(f"{getattr(interval, name):.4g}") for name in ("value", "low", "high")}


def _curve(runs: Sequence[Run]) -> list[dict[str, float]]:
    """Mean success at every look; a run that has ended stays where it was."""
    looks = max((run.iterations for run in runs), key=len)
    return [{"iteration": look, **_mean([run.at(look) for run in runs])} for look in looks]
