"""When tokens were decided and committed, worked out by hand; traces that cannot be analysed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.eval.traces.commit_timing import (
    answer_end,
    check_trace,
    token_timings,
    trace_bound,
)
from creditdecoding.trace import FinishEvent, Trace
from tests.helpers.analysis_traces import END, credit_trace, standard_trace, step


def test_moments_by_hand() -> None:
    timings = token_timings(standard_trace())
    assert [
        (m.position, m.token, m.block_start, m.candidate, m.commit, m.redundancy) for m in timings
    ] == [
        (2, 5, 1, 1, 1, 0),
        (3, 6, 1, 2, 2, 0),
        (5, END, 3, 3, 3, 0),
        (4, 7, 3, 3, 4, 1),
    ]
    assert trace_bound(timings) == 2 + 1
    assert trace_bound(token_timings(credit_trace())) == 1 + 1


def test_a_candidate_that_was_left_and_found_again_counts_from_the_second_time() -> None:
    steps = [step(0, n, {1: (token, 0.5, n == 4)}) for n, token in enumerate((5, 6, 5, 5, 5))]
    timings = token_timings(Trace((1,), steps, FinishEvent(0, "length", (5,), 1.0)))
    assert [(m.candidate, m.commit, m.redundancy) for m in timings] == [(3, 5, 2)] and trace_bound(
        timings
    ) == 3


def test_what_lies_behind_the_end_does_not_count() -> None:
    trace = standard_trace()
    assert trace.finish is not None and answer_end(trace) == 6
    trace.finish = replace(trace.finish, tokens=(5,))
    assert answer_end(trace) == 4 and {m.position for m in token_timings(trace)} == {2, 3}
    trace.settings["stop"] = ["x"]
    assert {m.position for m in token_timings(trace)} == {2}
    trace.settings |= {"stop": [], "early_stop": False}
    assert answer_end(trace) == math.inf and len(token_timings(trace)) == 4


def broken(**changes: Any) -> list[Trace]:
    """Traces that no definition fits."""
    traces = [standard_trace() for _ in range(9)]
    traces[0].finish = None
    traces[1].steps = []
    traces[2].prompt = ()
    traces[3].settings["temperature"] = 0.5
    del traces[4].steps[1]
    traces[5].steps[0] = replace(traces[5].steps[0], tokens=(1,))
    traces[6].steps[1] = replace(traces[6].steps[0], step=1)
    traces[7].finish = FinishEvent(0, "stop", (5, 6, 8), 0.4)
    traces[8].steps[0] = replace(traces[8].steps[0], top=(1, 2, 3))
    return traces


def test_traces_that_no_definition_fits_are_refused() -> None:
    for i, trace in enumerate(broken()):
        with pytest.raises(OptionError, match=r"f\.jsonl"):
            check_trace(trace, "f.jsonl")
            pytest.fail(f"trace {i} was let through")
