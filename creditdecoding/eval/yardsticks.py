"""Yardsticks beside score and passes: how passes spread over answers, tokens counted in three ways,
seconds, and their share outside of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from creditdecoding.bootstrap import FloatArray, stratified_mean
from creditdecoding.errors import OptionError
from creditdecoding.eval.leaderboard import ALL_TASKS
from creditdecoding.eval.sweep import DecoderCurve

Records = Sequence[Mapping[str, Any]]

QUANTILES = (0.1, 0.5, 0.9, 1.0)


def yardsticks(records: Records, gen_length: int) -> dict[str, dict[str, Any]]:
    """For each decoder of the records of one split, over tasks with equal weight:

    - `nfe_spread`: passes of the answers at the 10th, 50th and 90th percentile, and the most.
    - `tpf`: tokens a forward pass. `visible` counts the tokens of the answer, `with_stop` also the
      end token if one was written, `full_span` all `gen_length` positions, written or not: the
      three ways in which the field counts.
    - `seconds`: mean seconds from an answer's start to its end in its batch, None if not recorded.
    - `outside_share`: mean share of a batch's time, until the answer ends, that is not in forward
      passes; None if not recorded.
    """
    by_decoder: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_decoder.setdefault(record["decoder"], []).append(record)
    return {name: _of_decoder(members, gen_length) for name, members in by_decoder.items()}


def _of_decoder(records: Records, gen_length: int) -> dict[str, Any]:
    tasks = sorted({record["family"] for record in records})
    strata = [tasks.index(record["family"]) for record in records]
    passes = np.array([record["nfe"] for record in records], dtype=float)
    visible = np.array([record["tokens"] for record in records], dtype=float)
    stops = np.array([record.get("finish") == "stop" for record in records], dtype=float)
    columns = np.stack((passes, visible, stops), axis=1)
    nfe, tokens, stopped = stratified_mean(columns, strata).tolist()
    return {
        "nfe_spread": np.quantile(passes, QUANTILES).tolist(),
        "tpf": {
            "visible": round(tokens / nfe, 3),
            "with_stop": round((tokens + stopped) / nfe, 3),
            "full_span": round(gen_length / nfe, 3),
        },
        "seconds": _mean(records, strata, "seconds"),
        "outside_share": _mean(records, strata, "outside_share"),
    }


def _mean(records: Records, strata: Sequence[int], name: str) -> float | None:
    if any(name not in record for record in records):
        return None
    values = np.array([[record[name]] for record in records], dtype=float)
    return round(float(stratified_mean(values, strata)[0]), 4)


def parallelism(records: Records, curves: Sequence[DecoderCurve]) -> dict[str, Any]:
    """The points of a leaderboard, `task: curve: [[tokens a pass, score], ...]`, with the task
    `all` for the mean over tasks.

    Tokens are those of the answer, without the end token. Raises `OptionError` without records.
    """
    if not records:
        raise OptionError("no answers to compare", given=0, hint="Run the comparison first.")
    means = _task_means(records)
    tasks = sorted({task for task, _ in means})
    groups = {task: [task] for task in tasks}
    if len(tasks) > 1:
        groups[ALL_TASKS] = tasks
    return {
        group: {
            curve.name: [
                _point([means[task, point.spec] for task in members]) for point in curve.points
            ]
            for curve in curves
        }
        for group, members in groups.items()
    }


def _task_means(records: Records) -> dict[tuple[str, str], FloatArray]:
    """Mean tokens, passes and score in percent, by task and decoder."""
    values: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for record in records:
        answer = (record["tokens"], record["nfe"], 100.0 * record["right"])
        values.setdefault((record["family"], record["decoder"]), []).append(answer)
    return {key: np.mean(answers, axis=0) for key, answers in values.items()}


def _point(task_means: Sequence[FloatArray]) -> list[float]:
    """(tokens a pass, score) over tasks with equal weight."""
    tokens, passes, score = np.mean(task_means, axis=0)
    return [round(float(tokens / passes), 4), round(float(score), 3)]
