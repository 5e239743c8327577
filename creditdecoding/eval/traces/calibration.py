"""How far a model's confidence is to be trusted: reliability curves, their gap, and whether
recalibration or history closes it.

Looks at standard decoding, whose confidence is the model's own probability, at every pass and
masked position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from creditdecoding.eval.traces.commit_timing import TokenTiming
from creditdecoding.trace import Trace

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Edges between the bins of confidence."""
RATIOS = (0.25, 0.5, 0.75)
"""Edges between the bands of mask ratio, the upper one inside."""
RUNS = (1, 2, 4, 8)
"""Longest runs of the bands of run length; longer ones are the last band."""
MARGIN = 2.0
"""Points of gap up to which a model counts as calibrated."""
LEAST = 0.01
"""Share of the Brier score that a gain must remove to count."""
FEWEST = 10
"""Prompts without which nothing is concluded."""
EARLY = 0.5
"""Mask ratio above which a look is early."""
_PRIOR, _DRAWS = 50.0, 1000
_IS = {kind: f"is {kind}" for kind in ("underconfident", "overconfident", "calibrated")} | {
    "undecided": "cannot be told from a calibrated one"
}
_PAYS = {
    "both": "Recalibration pays, and so does history beyond it.",
    "recalibration": "Plain recalibration pays; that history adds to it is not shown.",
    "history": "History pays, as credit uses it; that recalibration does is not shown.",
    "neither": "Neither is shown to pay.",
}


@dataclass(frozen=True)
class Observations:
    """Every first choice that standard decoding saw, one a pass and masked position that the answer
    needed, as columns.

    `ratio`: share of the block's masks that are left; `run`: passes of the block, this one
    included, for which the id has been first
    choice without a break; `final`: it is what was committed in the end; `right`: it is the
    reference answer's token (`judged` where known).
    """

    prompt: NDArray[np.int64]
    confidence: Floats
    ratio: Floats
    run: NDArray[np.int64]
    final: Bools
    right: Bools
    judged: Bools

    def where(self, chosen: Bools) -> Observations:
        """Those of `chosen`."""
        return Observations(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def observations(
    cases: Sequence[tuple[Trace | None, Sequence[TokenTiming], dict[int, int] | None]],
) -> Observations:
    """From (trace, its moments, reference tokens by position) of every prompt."""
    rows: list[tuple[int, float, float, int, bool, bool, bool]] = []
    for case, (trace, found, gold) in enumerate(cases):
        final = {moment.position: moment.token for moment in found}
        sizes: dict[int, int] = {}
        runs: dict[int, tuple[int, int]] = {}
        for step in trace.steps if trace is not None else ():
            ratio = len(step.positions) / sizes.setdefault(step.block, len(step.positions))
            for position, token, confidence in zip(step.positions, step.tokens, step.confidence):
                before = runs.get(position, (token, 0))
                runs[position] = (token, before[1] + 1 if before[0] == token else 1)
                if position in final:
                    right = gold is not None and gold.get(position) == token
                    judged = gold is not None and position in gold
                    rows.append(
                        (
                            case,
                            confidence,
                            ratio,
                            runs[position][1],
                            token == final[position],
                            right,
                            judged,
                        )
                    )
    columns = list(zip(*rows)) if rows else [()] * 7
    kinds = (np.int64, np.float64, np.float64, np.int64, np.bool_, np.bool_, np.bool_)
    return Observations(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds)))  # type: ignore[arg-type]


def calibration(
    cases: Sequence[tuple[Trace | None, Sequence[TokenTiming], dict[int, int] | None]],
) -> dict[str, Any]:
    """Curves of all looks, by mask ratio and by run length, for `final` and `right`; what
    recalibration and history gain; the verdict.
    """
    every = observations(cases)
    judged = every.where(every.judged)
    gains = _gains(every)
    found: dict[str, Any] = {"looks": len(every.prompt), "prompts": len(np.unique(every.prompt))}
    for name, part in (("final", every), ("right", judged)):
        hit = getattr(part, name)
        found[name] = {
            "all": _side(part, hit),
            "early": _side(part.where(part.ratio > EARLY), hit[part.ratio > EARLY]),
            "by_ratio": [
                {"band": text, **_side(part.where(chosen), hit[chosen])}
                for text, chosen in _bands(part.ratio, RATIOS, _ratio_names())
            ],
            "by_run": [
                {"band": text, **_side(part.where(chosen), hit[chosen])}
                for text, chosen in _bands(part.run, RUNS, _run_names())
            ],
        }
    return {
        **found,
        "gains": gains,
        "verdict": verdict(
            found["final"]["early"], found["right"]["early"], gains, found["prompts"]
        ),
    }


def verdict(
    final: dict[str, Any], right: dict[str, Any], gains: dict[str, Any], prompts: int
) -> dict[str, Any]:
    """What kind of model it is while more than half of a block is masked, what pays, and both in
    words. Rules in docs/analysis.md.
    """
    if prompts < FEWEST or final["interval"] is None:
        words = f"Too few prompts to say: {prompts}, at least {FEWEST} are needed."
        return {"kind": "undecided", "kind_right": "undecided", "pays": "undecided", "words": words}
    kind, said = _kind(final, "final")
    words = f"While more than half of a block is masked the model {_IS[kind]}: {said}"
    kind_right = "undecided"
    if right["interval"] is not None:
        kind_right, said = _kind(right, "right")
        words += f"; against the reference answers it {_IS[kind_right]}: {said}"
    recalibration, history = (
        gains[name]["share"] >= LEAST and gains[name]["interval"][0] > 0
        for name in ("recalibration", "history")
    )
    pays = (
        "both"
        if recalibration and history
        else "recalibration"
        if recalibration
        else "history"
        if history
        else "neither"
    )
    again, told = (
        f"{100 * gains[name]['share']:.1f}% (95%: {100 * gains[name]['interval'][0]:.1f} to {100 * gains[name]['interval'][1]:.1f})"
        for name in ("recalibration", "history")
    )
    words += f". Recalibration by confidence and mask ratio removes {again} of the Brier score, the run length of the id {told} of what is left. "
    return {"kind": kind, "kind_right": kind_right, "pays": pays, "words": words + _PAYS[pays]}


def _kind(side: dict[str, Any], what: str) -> tuple[str, str]:
    """The kind of model that a gap says, and the gap in words."""
    points, (low, high) = side["gap"], side["interval"]
    if points >= MARGIN and low > 0:
        kind = "underconfident"
    elif points <= -MARGIN and high < 0:
        kind = "overconfident"
    else:
        kind = "calibrated" if low >= -MARGIN and high <= MARGIN else "undecided"
    way = "more" if points >= 0 else "less"
    return (
        kind,
        f"its first choice is {what} {abs(points):.1f} points {way} often than its confidence says (95%: {low:+.1f} to {high:+.1f})",
    )


def _side(part: Observations, hit: Bools) -> dict[str, Any]:
    """Numbers and curve of some looks: `gap` = frequency - confidence in points, above 0 where the
    model is underconfident; `ece` likewise.
    """
    if not len(hit):
        return {
            "looks": 0,
            "confidence": None,
            "frequency": None,
            "gap": None,
            "interval": None,
            "ece": None,
            "curve": [],
        }
    place = np.digitize(part.confidence, EDGES)
    curve = []
    for i in np.unique(place):
        inside = place == i
        count, mean, rate = (
            int(inside.sum()),
            float(part.confidence[inside].mean()),
            float(hit[inside].mean()),
        )
        curve.append({"looks": count, "confidence": round(mean, 4), "frequency": round(rate, 4)})
    ece = sum(each["looks"] * abs(each["frequency"] - each["confidence"]) for each in curve) / len(
        hit
    )
    mean, rate = float(part.confidence.mean()), float(hit.mean())
    spread = _interval(part.prompt, hit - part.confidence, np.ones(len(hit)))
    return {
        "looks": len(hit),
        "confidence": round(mean, 4),
        "frequency": round(rate, 4),
        "gap": round(100 * (rate - mean), 2),
        "interval": None if spread is None else [round(100 * value, 2) for value in spread],
        "ece": round(100 * ece, 2),
        "curve": curve,
    }


def _gains(part: Observations) -> dict[str, Any]:
    """Share of the Brier score that each step removes, told by halves of the prompts about each
    other.

    `recalibration`: from the confidence to the frequency at that confidence and mask ratio;
    `history`: from there to the frequency at
    that run length as well. A cell counts its looks beside `_PRIOR` looks of the step before it.
    """
    cell = np.digitize(part.confidence, EDGES) * 4 + np.digitize(part.ratio, RATIOS, right=True)
    plain = part.confidence
    half = part.prompt % 2
    again = _told(cell, half, plain, part.final)
    told = _told(cell * 5 + np.digitize(part.run, RUNS, right=True), half, again, part.final)
    losses = [(chance - part.final) ** 2 for chance in (plain, again, told)]
    found = {}
    for name, before, after in (
        ("recalibration", losses[0], losses[1]),
        ("history", losses[1], losses[2]),
    ):
        spread = _interval(part.prompt, before - after, before)
        share = (
            float((before - after).sum() / before.sum()) if len(before) and before.sum() else 0.0
        )
        found[name] = {
            "share": round(share, 4),
            "interval": [0.0, 0.0] if spread is None else [round(value, 4) for value in spread],
        }
    return found


def _told(cell: NDArray[np.int64], half: NDArray[np.int64], prior: Floats, hit: Bools) -> Floats:
    """For each look the frequency of `hit` in its cell among the other half of the prompts, drawn
    towards `prior`.
    """
    found = prior.copy()
    for side in (0, 1):
        mine, other = half == side, half != side
        size = int(cell.max(initial=0)) + 1
        count = np.bincount(cell[other], minlength=size)
        hits = np.bincount(cell[other], weights=hit[other], minlength=size)
        found[mine] = (hits[cell[mine]] + _PRIOR * prior[mine]) / (count[cell[mine]] + _PRIOR)
    return found


def _interval(case: NDArray[np.int64], above: Floats, below: Floats) -> tuple[float, float] | None:
    """95% bootstrap interval of sum(above) / sum(below), whole prompts drawn; None for a single
    prompt.
    """
    cases, place = np.unique(case, return_inverse=True)
    if len(cases) < 2:
        return None
    top, bottom = (
        np.bincount(place, weights=values, minlength=len(cases)) for values in (above, below)
    )
    draws = np.random.default_rng(0).multinomial(
        len(cases), np.full(len(cases), 1 / len(cases)), _DRAWS
    )
    low, high = np.quantile((draws @ top) / np.maximum(draws @ bottom, 1e-12), (0.025, 0.975))
    return float(low), float(high)


def _bands(
    values: Floats | NDArray[np.int64], edges: Sequence[float], names: Sequence[str]
) -> list[tuple[str, Bools]]:
    """(name, which looks) of each band that has any; an edge belongs to the band below it."""
    place = np.digitize(values, edges, right=True)
    return [(name, place == i) for i, name in enumerate(names) if bool((place == i).any())]


def _ratio_names() -> list[str]:
    return [f"{low:.0%} to {high:.0%}" for low, high in zip((0.0, *RATIOS), (*RATIOS, 1.0))]


def _run_names() -> list[str]:
    return [
        str(high)
        if high - low == 1
        else f"{low + 1} or more"
        if math.isinf(high)
        else f"{low + 1} to {high}"
        for low, high in zip((0, *RUNS), (*RUNS, math.inf))
    ]
