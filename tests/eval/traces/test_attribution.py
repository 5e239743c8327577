"""Commits that a history made, counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from creditdecoding.eval.traces.attribution import attribution, history_threshold
from creditdecoding.trace import FinishEvent, StepEvent, Trace
from tests.helpers.analysis_traces import step


def with_probabilities(event: StepEvent, *probabilities: float) -> StepEvent:
    return replace(event, logprobs=tuple(math.log(p) for p in probabilities))


def boosted_trace() -> Trace:
    """Prompt of 1. Pass 1 writes 3 (own probability .95) and 4 (.7, boosted past .9). Pass 2 writes
    5 (.4, the best there is). Pass 3 writes 8, which the model does not rank first (.3, top is 6).
    """
    steps = [
        with_probabilities(
            step(0, 0, {1: (3, 0.96, True), 2: (4, 0.92, True), 3: (5, 0.5, False)}), 0.95, 0.7, 0.3
        ),
        with_probabilities(step(0, 1, {3: (5, 0.6, True), 4: (8, 0.3, False)}), 0.4, 0.2),
        with_probabilities(step(0, 2, {4: (8, 0.5, True)}, top={4: 6}), 0.3),
    ]
    return Trace((1,), steps, FinishEvent(0, "length", (3, 4, 5, 8), 0.3))


def test_commits_that_the_threshold_alone_would_not_have_made() -> None:
    standard = {1: 3, 2: 4, 3: 5, 4: 6}
    reference = {1: 3, 2: 9, 3: 5, 4: 8}
    counts = attribution("credit", [boosted_trace()], [standard], [reference])
    assert counts == {
        "threshold": 0.9,
        "commits": 4,
        "by_history": 2,
        "changed": 1,
        "right_by_standard": 1,
        "wrong_by_standard": 1,
        "right_by_reference": 1,
        "wrong_by_reference": 1,
    }
    lower = attribution("credit:threshold=0.7", [boosted_trace()], [None], [None])
    assert lower is not None
    assert (lower["by_history"], lower["right_by_standard"], lower["wrong_by_standard"]) == (
        1,
        0,
        0,
    )


def test_only_rules_with_a_history_and_complete_traces_are_counted() -> None:
    trace = boosted_trace()
    for spec in ("threshold", "fixed", "thrift", "edit", "a rule of someone else"):
        assert history_threshold(spec) is None
        assert attribution(spec, [trace], [None], [None]) is None
    assert history_threshold("klass:threshold=0.8") == pytest.approx(0.8)
    old = Trace(trace.prompt, [replace(trace.steps[0], logprobs=None)], trace.finish)
    assert attribution("credit", [old], [None], [None]) is None


def test_in_live_blocks_the_best_of_each_block_owes_nothing() -> None:
    """Positions 1 and 2 are in the current block, 3 and 4 in the next one: 4 (.5) is the best
    there, 3 (.3) is not, and 2 (.7) is not the best of its own.
    """
    event = step(
        0, 0, {1: (3, 0.96, True), 2: (4, 0.92, True), 3: (5, 0.91, True), 4: (6, 0.5, True)}
    )
    event = replace(with_probabilities(event, 0.95, 0.7, 0.3, 0.5), ahead=(0, 0, 1, 1))
    trace = Trace((1,), [event], FinishEvent(0, "length", (3, 4, 5, 6), 0.3))
    counts = attribution("credit:live_blocks=2", [trace], [None], [None])
    assert counts is not None
    assert (counts["commits"], counts["by_history"]) == (4, 2)
    one_block = attribution(
        "credit", [replace(trace, steps=[replace(event, ahead=None)])], [None], [None]
    )
    assert one_block is not None
    assert one_block["by_history"] == 3
    assert history_threshold("threshold:live_blocks=2") is None


def test_tokens_after_the_end_do_not_count() -> None:
    trace = boosted_trace()
    ended = Trace(trace.prompt, trace.steps, FinishEvent(0, "stop", (3,), 0.3))
    counts = attribution("credit", [ended], [{1: 3}], [None])
    assert counts is not None
    assert counts["commits"] == 2  # the answer 3 and its end token at position 2
