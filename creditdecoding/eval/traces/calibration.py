"""Can a model's confidence be trusted? Reliability curves, and whether recalibration or history
improves on it.

An observation is the model's top-1 prediction at one masked position in one pass of standard
decoding, whose confidence is the model's own probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from creditdecoding.eval.traces.commit_timing import TokenTiming, answer_tokens
from creditdecoding.trace import Trace

EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Edges between the bins of confidence."""
RATIOS = {"0% to 25%": 0.25, "25% to 50%": 0.5, "50% to 75%": 0.75, "75% to 100%": 1.0}
"""Bands of mask ratio with their upper edges, which are inside."""
RUNS = {"1": 1, "2": 2, "3 to 4": 4, "5 to 8": 8, "9 or more": np.inf}
"""Bands of run length with the longest run of each."""
MARGIN = 2.0
"""Points of gap up to which a model counts as calibrated."""
LEAST_GAIN = 0.01
"""Share of the Brier score that a gain must remove to count."""
FEWEST = 10
"""Prompts without which there is no verdict."""
EARLY = 0.5
"""Mask ratio above which an observation is early."""
PRIOR = 50.0
"""Observations of the previous estimate that a cell is blended with."""
DRAWS = 1000

KINDS = {
    "underconfident": "Underconfident while more than half of a block is masked.",
    "overconfident": "Overconfident while more than half of a block is masked.",
    "calibrated": "Calibrated while more than half of a block is masked.",
    "undecided": "Too few prompts, or too wide an interval, to tell the model from a calibrated "
    "one.",
}
PAYS = {
    "both": "Recalibration pays, and so does history on top of it.",
    "recalibration": "Recalibration pays; that history adds to it is not shown.",
    "history": "History pays, as credit uses it; that recalibration does is not shown.",
    "neither": "Neither recalibration nor history is shown to pay.",
    "undecided": "Too few prompts to say what pays.",
}
"""One fixed line for each verdict."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Observations = NDArray[Any]
"""A record array of `COLUMNS`."""
COLUMNS = np.dtype(
    [
        ("prompt", np.int64),
        ("confidence", np.float64),
        ("ratio", np.float64),
        ("run", np.int64),
        ("final", np.bool_),
        ("right", np.bool_),
        ("judged", np.bool_),
    ]
)
"""`ratio`: share of the block's masks that are left. `run`: passes of the block up to this one with
the same top-1 without a break. `final`: it is what was committed in the end. `right`: it is the
reference answer's token (`judged` where that is known).
"""

Prompt = tuple[Trace | None, Sequence[TokenTiming], Mapping[int, int] | None]
"""A trace, its timings, and the reference answer's tokens by position."""


def observations(prompts: Sequence[Prompt]) -> Observations:
    """Every observation at a position that the answer needed."""
    rows = [
        (number, *row) for number, prompt in enumerate(prompts) for row in _prompt_rows(*prompt)
    ]
    return np.array(rows, dtype=COLUMNS)


def _prompt_rows(
    trace: Trace | None, timings: Sequence[TokenTiming], reference: Mapping[int, int] | None
) -> Iterator[tuple[Any, ...]]:
    final = answer_tokens(timings)
    reference = reference or {}
    sizes: dict[int, int] = {}
    runs: dict[int, tuple[int, int]] = {}
    for step in trace.steps if trace is not None else ():
        ratio = len(step.positions) / sizes.setdefault(step.block, len(step.positions))
        for position, token, confidence in zip(step.positions, step.tokens, step.confidence):
            last, length = runs.get(position, (token, 0))
            run = length + 1 if last == token else 1
            runs[position] = (token, run)
            if position in final:
                is_final = token == final[position]
                is_right = reference.get(position) == token
                yield confidence, ratio, run, is_final, is_right, position in reference


def calibration(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Curves by mask ratio and by run length, for `final` and `right`; gains; the verdict."""
    rows = observations(prompts)
    report: dict[str, Any] = {"looks": len(rows), "prompts": len(np.unique(rows["prompt"]))}
    for side, members in (("final", rows), ("right", rows[rows["judged"]])):
        report[side] = {
            "all": _reliability(members, side),
            "early": _reliability(members[members["ratio"] > EARLY], side),
            "by_ratio": _by_band(members, side, "ratio", RATIOS),
            "by_run": _by_band(members, side, "run", RUNS),
        }
    report["gains"] = _gains(rows)
    early = {side: report[side]["early"] for side in ("final", "right")}
    report["verdict"] = verdict(early, report["gains"], report["prompts"])
    return report


def _by_band(
    rows: Observations, side: str, column: str, bands: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Reliability of each band that has observations."""
    number = np.digitize(rows[column], _edges(bands), right=True)
    return [
        {"band": name, **_reliability(rows[number == i], side)}
        for i, name in enumerate(bands)
        if bool((number == i).any())
    ]


def _edges(bands: Mapping[str, float]) -> list[float]:
    return [*bands.values()][:-1]


def verdict(
    early: Mapping[str, Mapping[str, Any]], gains: Mapping[str, Any], prompts: int
) -> dict[str, str]:
    """What kind of model it is early in a block, for `final` and `right`, and what pays: keys of
    `KINDS` and `PAYS`.
    """
    if prompts < FEWEST or early["final"]["interval"] is None:
        return dict.fromkeys(("kind", "kind_right", "pays"), "undecided")
    return {
        "kind": _kind(early["final"]),
        "kind_right": _kind(early["right"]),
        "pays": _pays(gains),
    }


def _pays(gains: Mapping[str, Any]) -> str:
    """Which gains are shown."""
    paying = [
        name
        for name in ("recalibration", "history")
        if gains[name]["share"] >= LEAST_GAIN and gains[name]["interval"][0] > 0
    ]
    if len(paying) == 2:
        return "both"
    return paying[0] if paying else "neither"


def _kind(reliability: Mapping[str, Any]) -> str:
    """What kind of model a gap shows."""
    if reliability["interval"] is None:
        return "undecided"
    gap = reliability["gap"]
    low, high = reliability["interval"]
    if gap >= MARGIN and low > 0:
        return "underconfident"
    if gap <= -MARGIN and high < 0:
        return "overconfident"
    return "calibrated" if low >= -MARGIN and high <= MARGIN else "undecided"


def _reliability(rows: Observations, side: str) -> dict[str, Any]:
    """Numbers and curve of some observations; `gap` is frequency minus confidence in points, so
    above 0 the model is underconfident.
    """
    if not len(rows):
        empty = dict.fromkeys(("confidence", "frequency", "gap", "interval", "ece"))
        return {"looks": 0, **empty, "curve": []}
    hit: Bools = rows[side]
    curve = _curve(rows["confidence"], hit)
    errors = [point["looks"] * abs(point["frequency"] - point["confidence"]) for point in curve]
    confidence = float(rows["confidence"].mean())
    frequency = float(hit.mean())
    spread = _ratio_interval(rows["prompt"], hit - rows["confidence"], np.ones(len(rows)))
    return {
        "looks": len(rows),
        "confidence": round(confidence, 4),
        "frequency": round(frequency, 4),
        "gap": round(100 * (frequency - confidence), 2),
        "interval": None if spread is None else [round(100 * end, 2) for end in spread],
        "ece": round(100 * sum(errors) / len(rows), 2),
        "curve": curve,
    }


def _curve(confidence: Floats, hit: Bools) -> list[dict[str, Any]]:
    """Mean confidence and frequency of each bin of confidence that has observations."""
    bins = np.digitize(confidence, EDGES)
    curve = []
    for number in np.unique(bins):
        inside = bins == number
        curve.append(
            {
                "looks": int(inside.sum()),
                "confidence": round(float(confidence[inside].mean()), 4),
                "frequency": round(float(hit[inside].mean()), 4),
            }
        )
    return curve


def _gains(rows: Observations) -> dict[str, Any]:
    """Share of the Brier score that each step removes, estimated on the other half of the prompts.

    `recalibration` goes from the confidence to the frequency at that confidence and mask ratio;
    `history` from there to the frequency at that run length as well.
    """
    final: Bools = rows["final"]
    half: Ints = rows["prompt"] % 2
    ratio = np.digitize(rows["ratio"], _edges(RATIOS), right=True)
    run = np.digitize(rows["run"], _edges(RUNS), right=True)
    cell = np.digitize(rows["confidence"], EDGES) * len(RATIOS) + ratio
    recalibrated = _held_out_frequency(cell, half, rows["confidence"], final)
    with_history = _held_out_frequency(cell * len(RUNS) + run, half, recalibrated, final)
    plain, second, third = (
        (estimate - final) ** 2 for estimate in (rows["confidence"], recalibrated, with_history)
    )
    return {
        "recalibration": _removed(rows["prompt"], plain, second),
        "history": _removed(rows["prompt"], second, third),
    }


def _removed(prompt: Ints, before: Floats, after: Floats) -> dict[str, Any]:
    """The share of a loss that is gone."""
    total = float(before.sum())
    share = float((before - after).sum()) / total if total else 0.0
    spread = _ratio_interval(prompt, before - after, before)
    interval = [0.0, 0.0] if spread is None else [round(end, 4) for end in spread]
    return {"share": round(share, 4), "interval": interval}


def _held_out_frequency(cell: Ints, half: Ints, prior: Floats, hit: Bools) -> Floats:
    """For each observation the frequency of `hit` in its cell among the other half of the prompts,
    blended with `PRIOR` observations of `prior`.
    """
    estimate = prior.copy()
    size = int(cell.max(initial=0)) + 1
    for side in (0, 1):
        ours = half == side
        other = half != side
        count = np.bincount(cell[other], minlength=size)
        hits = np.bincount(cell[other], weights=hit[other], minlength=size)
        estimate[ours] = (hits[cell[ours]] + PRIOR * prior[ours]) / (count[cell[ours]] + PRIOR)
    return estimate


def _ratio_interval(
    prompt: Ints, numerator: Floats, denominator: Floats
) -> tuple[float, float] | None:
    """95 % bootstrap interval of the ratio of sums, whole prompts drawn; None for one prompt."""
    prompts, number = np.unique(prompt, return_inverse=True)
    count = len(prompts)
    if count < 2:
        return None
    top = np.bincount(number, weights=numerator, minlength=count)
    bottom = np.bincount(number, weights=denominator, minlength=count)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    ratios = (draws @ top) / np.maximum(draws @ bottom, 1e-12)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)
