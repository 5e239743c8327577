"""What a decoder's history bought: commits that the same threshold would not have made without it.

A commit owes itself to the history if the model's own probability of its top-1 id was below the
threshold, and another position of its block had a higher one in that pass (a rule without history
always writes the best). Rules that wait for a stable history have few such commits; rules that
boost, many.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from creditdecoding.decoders import load, settings
from creditdecoding.decoders._live_blocks import LiveBlocks
from creditdecoding.decoders.base import Decoder, capabilities_of
from creditdecoding.errors import CreditError
from creditdecoding.eval.traces.commit_timing import answer_end
from creditdecoding.trace import StepEvent, Trace

Answers = Sequence[Mapping[int, int] | None]
COUNTS = (
    "commits",
    "by_history",
    "changed",
    "right_by_standard",
    "wrong_by_standard",
    "right_by_reference",
    "wrong_by_reference",
)


def history_threshold(spec: str) -> float | None:
    """The threshold of a rule that keeps a history, in one block or several; None for others."""
    try:
        decoder, _ = load(spec)
    except CreditError:  # a rule that is not of this package
        return None
    if isinstance(decoder, LiveBlocks):
        decoder = decoder.rule
    declared = capabilities_of(decoder)
    if declared.can_revise or declared.looks_ahead or not _keeps_history(decoder):
        return None
    threshold = settings(decoder).get("threshold")
    return None if threshold is None else float(threshold)


def _keeps_history(decoder: Decoder) -> bool:
    return bool(decoder.init(1, 1, 2, torch.device("cpu")))


def attribution(
    spec: str, traces: Sequence[Trace], standard: Answers, references: Answers
) -> dict[str, Any] | None:
    """Counts over the answer tokens of some traces, JSON-ready; None for a rule without history,
    or without the model's own probabilities in the traces.

    `commits`: all; `by_history`: those that the history made; of these, `right_by_standard` and
    `wrong_by_standard` (the token of standard decoding at the position), and the same by the
    reference answer, where its tokens are known; `changed`: tokens that the model did not rank
    first.
    """
    threshold = history_threshold(spec)
    steps = [step for trace in traces for step in trace.steps]
    if threshold is None or any(step.top is None or step.logprobs is None for step in steps):
        return None
    counts = dict.fromkeys(COUNTS, 0)
    for trace, standard_tokens, reference in zip(traces, standard, references):
        end = answer_end(trace)
        for step in trace.steps:
            for commit in _commits(step, threshold):
                if commit.position < end:
                    _count(counts, commit, standard_tokens, reference)
    return {"threshold": threshold, **counts}


@dataclasses.dataclass(frozen=True)
class HistoryCommit:
    """One commit: `changed` if its token was not the model's first, `by_history` if the threshold
    alone would not have written it.
    """

    position: int
    token: int
    changed: bool
    by_history: bool


def _commits(step: StepEvent, threshold: float) -> list[HistoryCommit]:
    assert step.top is not None
    assert step.logprobs is not None
    probabilities = [math.exp(logprob) for logprob in step.logprobs]
    best = _best_columns(probabilities, step.ahead or (0,) * len(probabilities))
    commits = []
    for column, committed in enumerate(step.committed):
        if committed:
            changed = step.tokens[column] != step.top[column]
            passes = probabilities[column] >= threshold or column in best
            commits.append(
                HistoryCommit(
                    position=step.positions[column],
                    token=step.tokens[column],
                    changed=changed,
                    by_history=changed or not passes,
                )
            )
    return commits


def _best_columns(probabilities: Sequence[float], blocks: Sequence[int]) -> set[int]:
    """The column of the highest probability in each block."""
    best: dict[int, int] = {}
    for column, block in enumerate(blocks):
        leader = best.setdefault(block, column)
        if probabilities[column] > probabilities[leader]:
            best[block] = column
    return set(best.values())


def _count(
    counts: dict[str, int],
    commit: HistoryCommit,
    standard: Mapping[int, int] | None,
    reference: Mapping[int, int] | None,
) -> None:
    counts["commits"] += 1
    counts["changed"] += commit.changed
    if not commit.by_history:
        return
    counts["by_history"] += 1
    for judge, answer in (("standard", standard), ("reference", reference)):
        if answer is not None and commit.position in answer:
            verdict = "right" if answer[commit.position] == commit.token else "wrong"
            counts[f"{verdict}_by_{judge}"] += 1
