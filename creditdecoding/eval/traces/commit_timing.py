"""When each token of a trace was decided, and when it was committed.

A token is decided at the first pass from which its prediction no longer changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from creditdecoding.errors import OptionError
from creditdecoding.trace import StepEvent, Trace


@dataclass(frozen=True)
class TokenTiming:
    """One committed token. Passes count from 1 over the whole trace.

    `block_start` is the first pass of the token's block; `candidate` the first pass from which the
    rule would have written this token at every pass; `commit` the pass that wrote it. `confidence`,
    `credit` and `top`, the model's own first choice, are those at the commit; None if the trace
    does not have them.
    """

    position: int
    token: int
    block: int
    block_start: int
    candidate: int
    commit: int
    confidence: float
    credit: float | None
    top: int | None

    @property
    def redundancy(self) -> int:
        """Passes in which the token was decided and predicted again."""
        return self.commit - self.candidate


def token_timings(trace: Trace) -> list[TokenTiming]:
    """Every token that the answer needed, in the order of commits; none after its end."""
    end = answer_end(trace)
    candidates: dict[int, tuple[int, int]] = {}
    block_starts: dict[int, int] = {}
    timings = []
    for number, step in enumerate(trace.steps, 1):
        block_start = block_starts.setdefault(step.block, number)
        for i, (position, token) in enumerate(zip(step.positions, step.tokens)):
            if position not in candidates or candidates[position][0] != token:
                candidates[position] = (token, number)
            if step.committed[i] and position < end:
                timings.append(
                    TokenTiming(
                        position=position,
                        token=token,
                        block=step.block,
                        block_start=block_start,
                        candidate=candidates[position][1],
                        commit=number,
                        confidence=step.confidence[i],
                        credit=None if step.credit is None else step.credit[i],
                        top=None if step.top is None else step.top[i],
                    )
                )
    return timings


def answer_tokens(timings: Sequence[TokenTiming]) -> dict[int, int]:
    """Position -> token."""
    return {timing.position: timing.token for timing in timings}


def answer_end(trace: Trace) -> float:
    """The position from which nothing had to be written: after the end token, or after the stop
    string.
    """
    assert trace.finish is not None
    has_stop = bool(trace.settings.get("stop"))
    if trace.finish.reason != "stop" or not (trace.settings.get("early_stop", True) or has_stop):
        return math.inf
    return len(trace.prompt) + len(trace.finish.tokens) + (0 if has_stop else 1)


def trace_bound(timings: Sequence[TokenTiming]) -> int:
    """Passes if every token were committed when it is decided and no other prediction changed."""
    passes: dict[int, int] = {}
    for timing in timings:
        needed = timing.candidate - timing.block_start + 1
        passes[timing.block] = max(passes.get(timing.block, 1), needed)
    return sum(passes.values())


def check_trace(trace: Trace, name: str) -> None:
    """Refuse a trace unless it is complete and every token was written once, greedily, after a
    prompt. Raises `OptionError`.
    """
    again = "Decode again and save it whole."
    if trace.finish is None or not trace.steps:
        raise OptionError("the trace is cut off: it has no end", given=name, hint=again)
    if not trace.prompt:
        raise OptionError(
            "the trace fills gaps of a text and has no prompt",
            given=name,
            hint="Analyse traces of answers to prompts.",
        )
    if trace.settings.get("temperature", 0.0) != 0.0:
        raise OptionError(
            "the trace was sampled: its candidates are draws",
            given=name,
            hint="Decode with --temperature 0.",
        )
    if not _has_all_steps(trace):
        raise OptionError("the trace has gaps: events are missing", given=name, hint=again)
    written: set[int] = set()
    for step in trace.steps:
        if step.revoked or written & set(step.positions):
            what = "the trace is of a rule that overwrites or remasks tokens"
            hint = "Leave it out: its tokens are committed more than once."
            raise OptionError(what, given=name, hint=hint)
        written |= step.commits().keys()
    final = trace.written
    tokens = enumerate(trace.finish.tokens, len(trace.prompt))
    if any(final.get(position) != token for position, token in tokens):
        what = "the trace has gaps: its end names tokens that no step wrote"
        raise OptionError(what, given=name, hint=again)


def _has_all_steps(trace: Trace) -> bool:
    """Whether steps follow each other in every block, each with all its columns."""
    block, number = -1, 0
    for step in trace.steps:
        continues = step.block == block and step.step == number + 1
        starts = step.block > block and step.step == 0
        if not (continues or starts) or not _has_all_columns(step):
            return False
        block, number = step.block, step.step
    return True


def _has_all_columns(step: StepEvent) -> bool:
    columns = (step.tokens, step.confidence, step.committed, step.credit, step.top)
    return all(len(column) == len(step.positions) for column in columns if column is not None)
