"""When each token of a trace was the candidate for good and when it was committed; and whether a
trace says so at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from creditdecoding.errors import OptionError
from creditdecoding.trace import Trace


@dataclass(frozen=True)
class TokenTiming:
    """One committed token. Passes count from 1 over the whole trace, `begin` is the first pass of
    the token's block.

    `candidate` is the first pass from which on the rule would have written this token at every pass
    until `commit`, which wrote it.
    `confidence`, `credit` and `top`, the model's own first choice (None where the trace does not
    say), are those at the commit.
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
        """Passes in which the token was decided and asked for again."""
        return self.commit - self.candidate


def token_timings(trace: Trace) -> list[TokenTiming]:
    """Every token that the answer needed, in the order of its commits; what was written behind the
    end does not count.
    """
    since: dict[int, tuple[int, int]] = {}
    begins: dict[int, int] = {}
    found, end = [], answer_end(trace)
    for number, step in enumerate(trace.steps, 1):
        begin = begins.setdefault(step.block, number)
        for i, (position, token) in enumerate(zip(step.positions, step.tokens)):
            if position not in since or since[position][0] != token:
                since[position] = (token, number)
            if step.committed[i] and position < end:
                credit = None if step.credit is None else step.credit[i]
                top = None if step.top is None else step.top[i]
                found.append(
                    TokenTiming(
                        position,
                        token,
                        step.block,
                        begin,
                        since[position][1],
                        number,
                        step.confidence[i],
                        credit,
                        top,
                    )
                )
    return found


def answer_end(trace: Trace) -> float:
    """The position from which on nothing had to be written: behind the end token, or behind what
    holds the stop string.
    """
    assert trace.finish is not None
    stops = bool(trace.settings.get("stop"))
    if trace.finish.reason != "stop" or not (trace.settings.get("early_stop", True) or stops):
        return math.inf
    return len(trace.prompt) + len(trace.finish.tokens) + (not stops)


def trace_bound(found: list[TokenTiming]) -> int:
    """Passes if every token were committed as soon as it is the candidate for good and no other
    prediction changed by that: by blocks.
    """
    last: dict[int, int] = {}
    for moment in found:
        last[moment.block] = max(
            last.get(moment.block, 1), moment.candidate - moment.block_start + 1
        )
    return sum(last.values())


def check_trace(trace: Trace, name: str) -> None:
    """Raise `OptionError` unless the trace is whole and each of its tokens was written once,
    greedily, behind a prompt.
    """
    if trace.finish is None or not trace.steps:
        raise OptionError(
            "the trace is cut off: it has no end",
            given=name,
            hint="Decode again and save it whole.",
        )
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
    written: set[int] = set()
    place = (-1, 0)
    for step in trace.steps:
        columns = [
            step.tokens,
            step.confidence,
            step.committed,
            *(x for x in (step.credit, step.top) if x is not None),
        ]
        follows = step.block == place[0] and step.step == place[1] + 1
        if not (follows or (step.block > place[0] and step.step == 0)) or any(
            len(column) != len(step.positions) for column in columns
        ):
            raise OptionError(
                "the trace has gaps: events are missing",
                given=name,
                hint="Decode again and save it whole.",
            )
        if step.revoked or written & set(step.positions):
            what = "the trace is of a rule that writes over tokens or takes them back"
            raise OptionError(
                what, given=name, hint="Leave it out: a token has no one commit there."
            )
        written |= step.commits().keys()
        place = (step.block, step.step)
    final, start = trace.written, len(trace.prompt)
    if any(final.get(start + i) != token for i, token in enumerate(trace.finish.tokens)):
        raise OptionError(
            "the trace has gaps: its end names tokens that no step wrote",
            given=name,
            hint="Decode again and save it whole.",
        )
