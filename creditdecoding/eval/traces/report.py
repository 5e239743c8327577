"""Trace analysis: how long tokens were decided before they were committed, what the oracle needs,
what went wrong, what credit changed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from creditdecoding.eval.traces.calibration import calibration
from creditdecoding.eval.traces.commit_timing import TokenTiming, token_timings, trace_bound
from creditdecoding.eval.traces.dataset import STANDARD, PromptTraces
from creditdecoding.trace import Trace

CONFIDENCE = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
CREDIT = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, math.inf)
"""Lower edges of the bins of commits, and the upper edge of the last."""


def analyse(cases: Sequence[PromptTraces]) -> dict[str, Any]:
    """Every number, JSON-ready: `decoders` a record each, `calibration` of the model, `tokens` and
    `changes` one by one.
    """
    names = list(cases[0].traces)
    found = {name: [token_timings(case.traces[name]) for case in cases] for name in names}
    standard = (
        [{moment.position: moment.token for moment in each} for each in found[STANDARD]]
        if STANDARD in names
        else None
    )
    gold = {name: [_aligned(case, case.traces[name]) for case in cases] for name in names}
    oracle = [case.oracle.nfe for case in cases if case.oracle is not None]
    records, changes = [], []
    for name in names:
        record, changed = _decoder(name, cases, found[name], standard, gold[name])
        record["over_oracle"] = _ratio(record["nfe"], sum(oracle) / len(oracle)) if oracle else None
        records.append(record)
        changes += changed
    return {
        "prompts": len(cases),
        "oracle": _oracle(cases) if oracle else None,
        "decoders": records,
        "calibration": calibration(
            [(case.standard, found[STANDARD][i], gold[STANDARD][i]) for i, case in enumerate(cases)]
        )
        if standard
        else None,
        "changes": changes,
        "steps": {name: _steps(cases, found[name], name, standard) for name in names},
        "tokens": {
            name: [_table(each, case.traces[name]) for case, each in zip(cases, found[name])]
            for name in names
        },
    }


def _decoder(
    name: str,
    cases: Sequence[PromptTraces],
    found: Sequence[list[TokenTiming]],
    standard: Sequence[dict[int, int]] | None,
    gold: Sequence[dict[int, int] | None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One decoder's record, and the commits whose value credit changed."""
    every = [moment for each in found for moment in each]
    nfe, bounds = (
        _mean([case.traces[name].nfe for case in cases]),
        _mean([trace_bound(each) for each in found]),
    )
    right = [case.right[name] for case in cases if name in case.right]
    records = (
        None
        if standard is None
        else [_record(each) == other for each, other in zip(found, standard)]
    )
    changes, summary = (
        (None, None) if not _credits(cases, name) else _changes(name, cases, found, standard, gold)
    )
    return {
        "decoder": name,
        "score": _percent(right),
        "same": _percent(records) if records is not None else None,
        "nfe": _rounded(nfe),
        "tokens": _rounded(_mean([len(each) for each in found])),
        "trace_bound": _rounded(bounds),
        "over_bound": _ratio(nfe, bounds),
        "candidate": _rounded(
            _mean([moment.candidate - moment.block_start + 1 for moment in every])
        ),
        "commit": _rounded(_mean([moment.commit - moment.block_start + 1 for moment in every])),
        "redundancy": _rounded(_mean([moment.redundancy for moment in every])),
        "redundant": _percent([moment.redundancy > 0 for moment in every]),
        "wrong": None if standard is None else _wrong(found, standard),
        "wrong_reference": _wrong(found, gold) if any(each is not None for each in gold) else None,
        "aligned": sum(each is not None for each in gold),
        "changed": summary,
    }, changes or []


def _record(found: Sequence[TokenTiming]) -> dict[int, int]:
    return {moment.position: moment.token for moment in found}


def _credits(cases: Sequence[PromptTraces], name: str) -> bool:
    """Whether the decoder keeps credit."""
    return any(step.credit is not None for case in cases for step in case.traces[name].steps)


def _aligned(case: PromptTraces, trace: Trace) -> dict[int, int] | None:
    """The reference answer's tokens by position, if the trace's answer has as many tokens; None
    where they cannot be set side by side.
    """
    if case.reference is None or len(case.reference) != len(trace.tokens):
        return None
    return {len(trace.prompt) + i: token for i, token in enumerate(case.reference)}


def _oracle(cases: Sequence[PromptTraces]) -> dict[str, Any]:
    """The oracle's passes, and how many of its commits were told to the model because none of its
    first choices was in the answer.
    """
    traces = [case.oracle for case in cases if case.oracle is not None]
    steps = [step for trace in traces for step in trace.steps if step.top is not None]
    told = sum(
        done and token != top
        for step in steps
        for done, token, top in zip(step.committed, step.tokens, step.top or ())
    )
    return {"nfe": _rounded(_mean([trace.nfe for trace in traces])), "told": told}


def _wrong(
    found: Sequence[list[TokenTiming]], answers: Sequence[dict[int, int] | None]
) -> dict[str, Any]:
    """Commits that differ from `answers` where these have a token, in all and by confidence and
    credit.
    """
    judged = [
        (m, m.token != answer[m.position])
        for each, answer in zip(found, answers)
        if answer is not None
        for m in each
        if m.position in answer
    ]
    credits = [pair for pair in judged if pair[0].credit is not None]
    return {
        "judged": len(judged),
        "wrong": sum(bad for _, bad in judged),
        "by_confidence": _histogram(judged, CONFIDENCE, lambda moment: moment.confidence),
        "by_credit": _histogram(credits, CREDIT, lambda moment: moment.credit or 0.0)
        if credits
        else None,
    }


def _histogram(
    judged: Sequence[tuple[TokenTiming, bool]],
    edges: Sequence[float],
    value: Callable[[TokenTiming], float],
) -> list[dict[str, Any]]:
    """Commits and wrong ones by bins [low, high), the last one closed; an open end is None."""
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = [
            bad
            for moment, bad in judged
            if low <= value(moment) < high or (high == edges[-1] and value(moment) >= high)
        ]
        bins.append(
            {
                "low": low,
                "high": high if math.isfinite(high) else None,
                "commits": len(inside),
                "wrong": sum(inside),
            }
        )
    return bins


def _changes(
    name: str,
    cases: Sequence[PromptTraces],
    found: Sequence[list[TokenTiming]],
    standard: Sequence[dict[int, int]] | None,
    gold: Sequence[dict[int, int] | None],
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Commits that differ from the model's own first choice at that pass, judged by standard
    decoding and by the reference answer.
    """
    if any(moment.top is None for each in found for moment in each):
        return [], None
    changes = []
    for i, (case, each) in enumerate(zip(cases, found)):
        for moment in each:
            if moment.token != moment.top:
                changes.append(
                    {
                        "decoder": name,
                        "prompt": i,
                        "position": moment.position - len(case.traces[name].prompt),
                        "pass": moment.commit,
                        "top": moment.top,
                        "written": moment.token,
                        "by_standard": _verdict(moment, None if standard is None else standard[i]),
                        "by_reference": _verdict(moment, gold[i]),
                        "right": case.right.get(name),
                    }
                )
    shown = sum(
        token != top
        for case in cases
        for step in case.traces[name].steps
        for token, top in zip(step.tokens, step.top or ())
    )
    judges = {
        judge: {
            kind: sum(c[judge] == kind for c in changes) for kind in ("better", "worse", "neither")
        }
        for judge in _JUDGES
    }
    sides = {
        "in_right_answers": sum(c["right"] is True for c in changes),
        "in_wrong_answers": sum(c["right"] is False for c in changes),
    }
    return changes, {"candidates": shown, "commits": len(changes), **judges, **sides}


_JUDGES = ("by_standard", "by_reference")


def _verdict(moment: TokenTiming, answer: dict[int, int] | None) -> str | None:
    """Whether the change led to the answer's token, away from it, or neither; None where the answer
    has no token there.
    """
    if answer is None or moment.position not in answer:
        return None
    wanted = answer[moment.position]
    return "better" if moment.token == wanted else "worse" if moment.top == wanted else "neither"


def _steps(
    cases: Sequence[PromptTraces],
    found: Sequence[list[TokenTiming]],
    name: str,
    standard: Sequence[dict[int, int]] | None,
) -> dict[str, Any]:
    """The figure: mean pass of candidate, commit and oracle by position in the answer, over tokens
    that agree with standard decoding.
    """
    columns: dict[int, list[tuple[int, int, int | None]]] = {}
    for i, (case, each) in enumerate(zip(cases, found)):
        told = (
            {}
            if case.oracle is None
            else {moment.position: moment.commit for moment in token_timings(case.oracle)}
        )
        for moment in each:
            if standard is None or standard[i].get(moment.position) == moment.token:
                place = moment.position - len(case.traces[name].prompt)
                columns.setdefault(place, []).append(
                    (moment.candidate, moment.commit, told.get(moment.position))
                )
    places = sorted(place for place, rows in columns.items() if 4 * len(rows) >= len(cases))
    oracle = [[told for _, _, told in columns[place] if told is not None] for place in places]
    return {
        "positions": places,
        "candidate": [_rounded(_mean([row[0] for row in columns[place]])) for place in places],
        "commit": [_rounded(_mean([row[1] for row in columns[place]])) for place in places],
        "oracle": [_rounded(_mean(each)) if each else None for each in oracle],
    }


def _table(found: Sequence[TokenTiming], trace: Trace) -> dict[str, list[int]]:
    """Every token of one trace as columns, by position in the answer; passes from 1, `first` those
    at which their blocks began.
    """
    rows = sorted(found, key=lambda moment: moment.position)
    return {
        "position": [moment.position - len(trace.prompt) for moment in rows],
        "token": [moment.token for moment in rows],
        "first": [moment.block_start for moment in rows],
        "candidate": [moment.candidate for moment in rows],
        "commit": [moment.commit for moment in rows],
        "redundancy": [moment.redundancy for moment in rows],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _percent(values: Sequence[bool]) -> float | None:
    return round(100 * sum(values) / len(values), 2) if values else None


def _ratio(value: float | None, by: float) -> float | None:
    return None if value is None or not by else round(value / by, 4)
