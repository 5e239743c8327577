"""The report of a trace analysis: redundancy, the oracle, wrong commits, credit's changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from creditdecoding.eval.traces.attribution import attribution
from creditdecoding.eval.traces.calibration import calibration
from creditdecoding.eval.traces.commit_timing import (
    TokenTiming,
    answer_tokens,
    token_timings,
    trace_bound,
)
from creditdecoding.eval.traces.dataset import STANDARD, PromptTraces
from creditdecoding.eval.traces.side_by_side import side_by_side
from creditdecoding.trace import Trace

CONFIDENCE = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
CREDIT = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, math.inf)
"""Lower edges of the bins of commits, and the upper edge of the last."""
JUDGES = ("by_standard", "by_reference")

Answers = Sequence[dict[int, int] | None]
"""Tokens by position for each prompt, None where they are unknown."""


@dataclass(frozen=True)
class DecoderTraces:
    """The traces of one decoder, one for each prompt."""

    name: str
    prompts: Sequence[PromptTraces]

    @cached_property
    def traces(self) -> list[Trace]:
        """One for each prompt."""
        return [prompt.traces[self.name] for prompt in self.prompts]

    @cached_property
    def timings(self) -> list[list[TokenTiming]]:
        """The committed tokens of each prompt."""
        return [token_timings(trace) for trace in self.traces]

    @cached_property
    def answers(self) -> list[dict[int, int]]:
        """The tokens of each prompt by position."""
        return [answer_tokens(timings) for timings in self.timings]

    @cached_property
    def references(self) -> Answers:
        """The reference answers by position, where they have as many tokens as the decoder's."""
        aligned: list[dict[int, int] | None] = []
        for prompt, trace in zip(self.prompts, self.traces):
            if prompt.reference is None or len(prompt.reference) != len(trace.tokens):
                aligned.append(None)
            else:
                aligned.append(dict(enumerate(prompt.reference, len(trace.prompt))))
        return aligned

    @property
    def right(self) -> list[bool]:
        """Whether each answer is right, where that is known."""
        return [prompt.right[self.name] for prompt in self.prompts if self.name in prompt.right]

    @property
    def right_answers(self) -> list[tuple[tuple[int, ...], ...]]:
        """All right answers of each prompt, none where they cannot be listed."""
        return [prompt.right_answers for prompt in self.prompts]

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(token for prompt in self.prompts for token in prompt.end_ids)

    @property
    def keeps_credit(self) -> bool:
        """Whether the traces have credit."""
        return any(step.credit is not None for trace in self.traces for step in trace.steps)

    def known_answers(self, answers: Answers | None) -> Answers:
        """The answers, each unknown if there are none."""
        return [None] * len(self.prompts) if answers is None else answers

    def answer_index(self, prompt: int, timing: TokenTiming) -> int:
        """The index of a token in its answer."""
        return timing.position - len(self.traces[prompt].prompt)


def analyse(prompts: Sequence[PromptTraces]) -> dict[str, Any]:
    """Every number, JSON-ready: a record for each decoder, the calibration of the model, changed
    tokens, and all tokens one by one.
    """
    decoders = [DecoderTraces(name, prompts) for name in prompts[0].traces]
    standard = next((decoder for decoder in decoders if decoder.name == STANDARD), None)
    answers: Answers | None = None if standard is None else standard.answers
    oracle = _oracle(prompts)
    changes = {decoder.name: _changes(decoder, answers) for decoder in decoders}
    records = []
    for decoder in decoders:
        record = _record(decoder, answers)
        record["changed"] = _change_counts(decoder, changes[decoder.name])
        record["over_oracle"] = _ratio(record["nfe"], oracle["nfe"]) if oracle else None
        records.append(record)
    return {
        "prompts": len(prompts),
        "oracle": oracle,
        "decoders": records,
        "calibration": None
        if standard is None
        else calibration([*zip(standard.traces, standard.timings, standard.references)]),
        "changes": [change for listed in changes.values() for change in listed or ()],
        "steps": {decoder.name: _steps(decoder, answers) for decoder in decoders},
        "tokens": {decoder.name: _tokens(decoder) for decoder in decoders},
    }


def _record(decoder: DecoderTraces, standard: Answers | None) -> dict[str, Any]:
    """One decoder's numbers."""
    nfe = _mean([trace.nfe for trace in decoder.traces])
    bound = _mean([trace_bound(timings) for timings in decoder.timings])
    same = None if standard is None else [a == b for a, b in zip(decoder.answers, standard)]
    aligned = sum(reference is not None for reference in decoder.references)
    return {
        "decoder": decoder.name,
        "score": _percent(decoder.right),
        "same": None if same is None else _percent(same),
        "nfe": _rounded(nfe),
        "tokens": _rounded(_mean([len(timings) for timings in decoder.timings])),
        "trace_bound": _rounded(bound),
        "over_bound": _ratio(nfe, bound),
        **_timing_means([timing for timings in decoder.timings for timing in timings]),
        "attribution": _attribution(decoder, standard),
        "side_by_side": side_by_side(decoder.traces, decoder.right_answers, decoder.end_ids),
        "wrong": None if standard is None else _wrong(decoder, standard),
        "wrong_reference": _wrong(decoder, decoder.references) if aligned else None,
        "aligned": aligned,
    }


def _attribution(decoder: DecoderTraces, standard: Answers | None) -> dict[str, Any] | None:
    """What the decoder's history bought."""
    answers = decoder.known_answers(standard)
    return attribution(decoder.name, decoder.traces, answers, decoder.references)


def _timing_means(timings: Sequence[TokenTiming]) -> dict[str, float | None]:
    """Means over all tokens, in passes of their block."""
    return {
        "candidate": _rounded(_mean([t.candidate - t.block_start + 1 for t in timings])),
        "commit": _rounded(_mean([t.commit - t.block_start + 1 for t in timings])),
        "redundancy": _rounded(_mean([t.redundancy for t in timings])),
        "redundant": _percent([t.redundancy > 0 for t in timings]),
    }


def _oracle(prompts: Sequence[PromptTraces]) -> dict[str, Any] | None:
    """The oracle's mean passes; `told` counts the commits that were not the model's own choice."""
    traces = [prompt.oracle for prompt in prompts if prompt.oracle is not None]
    if not traces:
        return None
    oracle_choices = sum(
        committed and token != top
        for trace in traces
        for step in trace.steps
        for committed, token, top in zip(step.committed, step.tokens, step.top or ())
    )
    return {"nfe": _rounded(_mean([trace.nfe for trace in traces])), "told": oracle_choices}


def _wrong(decoder: DecoderTraces, answers: Answers) -> dict[str, Any]:
    """Commits that differ from `answers`, in all and by confidence and credit."""
    judged = [
        (timing, timing.token != answer[timing.position])
        for timings, answer in zip(decoder.timings, answers)
        if answer is not None
        for timing in timings
        if timing.position in answer
    ]
    with_credit = [(timing, wrong) for timing, wrong in judged if timing.credit is not None]
    by_credit = _histogram(with_credit, CREDIT, lambda timing: timing.credit or 0.0)
    return {
        "judged": len(judged),
        "wrong": sum(wrong for _, wrong in judged),
        "by_confidence": _histogram(judged, CONFIDENCE, lambda timing: timing.confidence),
        "by_credit": by_credit if with_credit else None,
    }


def _histogram(
    judged: Sequence[tuple[TokenTiming, bool]],
    edges: Sequence[float],
    value: Callable[[TokenTiming], float],
) -> list[dict[str, Any]]:
    """Commits and wrong ones by bins [low, high), the last one closed; an open end is None."""
    bins = []
    for low, high in itertools.pairwise(edges):
        is_last = high == edges[-1]
        inside = [
            wrong
            for timing, wrong in judged
            if low <= value(timing) and (is_last or value(timing) < high)
        ]
        upper = high if math.isfinite(high) else None
        bins.append({"low": low, "high": upper, "commits": len(inside), "wrong": sum(inside)})
    return bins


def _changes(decoder: DecoderTraces, standard: Answers | None) -> list[dict[str, Any]] | None:
    """Commits of a decoder with credit that differ from the model's own first choice.

    None without credit, or if the traces do not have that choice.
    """
    timings = [timing for listed in decoder.timings for timing in listed]
    if not decoder.keeps_credit or any(timing.top is None for timing in timings):
        return None
    answers = decoder.known_answers(standard)
    return [
        _change(decoder, number, timing, answers[number])
        for number, listed in enumerate(decoder.timings)
        for timing in listed
        if timing.token != timing.top
    ]


def _change(
    decoder: DecoderTraces, number: int, timing: TokenTiming, standard: dict[int, int] | None
) -> dict[str, Any]:
    """A changed token of prompt `number`."""
    return {
        "decoder": decoder.name,
        "prompt": number,
        "position": decoder.answer_index(number, timing),
        "pass": timing.commit,
        "top": timing.top,
        "written": timing.token,
        "by_standard": _judgement(timing, standard),
        "by_reference": _judgement(timing, decoder.references[number]),
        "right": decoder.prompts[number].right.get(decoder.name),
    }


def _judgement(timing: TokenTiming, answer: dict[int, int] | None) -> str | None:
    """Whether a change led to the answer's token, away from it, or neither; None if unknown."""
    if answer is None or timing.position not in answer:
        return None
    if timing.token == answer[timing.position]:
        return "better"
    return "worse" if timing.top == answer[timing.position] else "neither"


def _change_counts(
    decoder: DecoderTraces, changes: Sequence[dict[str, Any]] | None
) -> dict[str, Any] | None:
    if changes is None:
        return None
    candidates = sum(
        token != top
        for trace in decoder.traces
        for step in trace.steps
        for token, top in zip(step.tokens, step.top or ())
    )
    counts: dict[str, Any] = {"candidates": candidates, "commits": len(changes)}
    for judge in JUDGES:
        judgements = [change[judge] for change in changes]
        counts[judge] = {kind: judgements.count(kind) for kind in ("better", "worse", "neither")}
    counts["in_right_answers"] = sum(change["right"] is True for change in changes)
    counts["in_wrong_answers"] = sum(change["right"] is False for change in changes)
    return counts


def _steps(decoder: DecoderTraces, standard: Answers | None) -> dict[str, Any]:
    """For the figure: mean pass of candidate, commit and oracle by position in the answer.

    Only tokens that agree with standard decoding count, and positions that a quarter of the prompts
    have.
    """
    passes: dict[str, dict[int, list[float]]] = {"candidate": {}, "commit": {}, "oracle": {}}
    for number, prompt in enumerate(decoder.prompts):
        oracle = {} if prompt.oracle is None else _commit_passes(prompt.oracle)
        agreed = None if standard is None else standard[number]
        for timing in decoder.timings[number]:
            if agreed is not None and agreed.get(timing.position) != timing.token:
                continue
            index = decoder.answer_index(number, timing)
            passes["candidate"].setdefault(index, []).append(timing.candidate)
            passes["commit"].setdefault(index, []).append(timing.commit)
            if timing.position in oracle:
                passes["oracle"].setdefault(index, []).append(oracle[timing.position])
    prompts = len(decoder.prompts)
    indices = sorted(i for i, commits in passes["commit"].items() if 4 * len(commits) >= prompts)
    means = {
        name: [_rounded(_mean(by_index.get(index, []))) for index in indices]
        for name, by_index in passes.items()
    }
    return {"positions": indices, **means}


def _commit_passes(trace: Trace) -> dict[int, int]:
    return {timing.position: timing.commit for timing in token_timings(trace)}


def _tokens(decoder: DecoderTraces) -> list[dict[str, list[int]]]:
    """Every token of each trace as columns, by position in the answer; passes count from 1."""
    tables = []
    for number, timings in enumerate(decoder.timings):
        rows = sorted(timings, key=lambda timing: timing.position)
        tables.append(
            {
                "position": [decoder.answer_index(number, timing) for timing in rows],
                "token": [timing.token for timing in rows],
                "first": [timing.block_start for timing in rows],
                "candidate": [timing.candidate for timing in rows],
                "commit": [timing.commit for timing in rows],
                "redundancy": [timing.redundancy for timing in rows],
            }
        )
    return tables


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _percent(values: Sequence[bool]) -> float | None:
    return round(100 * sum(values) / len(values), 2) if values else None


def _ratio(value: float | None, by: float | None) -> float | None:
    return round(value / by, 4) if value is not None and by else None
