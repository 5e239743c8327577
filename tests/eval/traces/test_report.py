"""The report of a trace analysis, worked out by hand, and its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.eval.traces.dataset import PromptTraces
from creditdecoding.eval.traces.report import analyse
from creditdecoding.plots.analysis import reliability_png, steps_png
from creditdecoding.trace import FinishEvent, Trace
from tests.helpers.analysis_traces import credit_trace, standard_trace, step


def test_the_report_by_hand() -> None:
    oracle = Trace(
        (1, 1),
        [*standard_trace().steps[:2], credit_trace().steps[2]],
        FinishEvent(0, "stop", (5, 6, 7), 0.3),
    )
    case = PromptTraces(
        {"fixed": standard_trace(), "credit": credit_trace()},
        {"fixed": True, "credit": False},
        (5, 6, 7),
        oracle,
    )
    analysis = analyse([case])
    assert json.loads(json.dumps(analysis)) == analysis
    fixed, credit = analysis["decoders"]
    assert (fixed["nfe"], fixed["trace_bound"], fixed["over_bound"], fixed["over_oracle"]) == (
        4,
        3,
        1.3333,
        1.3333,
    )
    assert (fixed["redundancy"], fixed["redundant"], fixed["candidate"], fixed["commit"]) == (
        0.25,
        25.0,
        1.25,
        1.5,
    )
    assert (fixed["score"], fixed["same"], fixed["wrong"]["wrong"], fixed["changed"]) == (
        100.0,
        100.0,
        0,
        None,
    )
    assert (
        credit["nfe"],
        credit["trace_bound"],
        credit["over_oracle"],
        credit["redundancy"],
        credit["same"],
    ) == (3, 2, 1.0, 0.25, 0.0)
    wrong = credit["wrong"]
    assert (wrong["judged"], wrong["wrong"]) == (4, 1)
    assert [
        (b["low"], b["commits"], b["wrong"]) for b in wrong["by_confidence"] if b["commits"]
    ] == [(0.9, 2, 1), (0.95, 2, 0)]
    assert [
        (b["low"], b["high"], b["commits"], b["wrong"]) for b in wrong["by_credit"] if b["commits"]
    ] == [
        (0.5, 1.0, 1, 0),
        (1.0, 1.5, 2, 0),
        (2.0, 2.5, 1, 1),
    ]
    assert (
        credit["aligned"],
        credit["wrong_reference"]["judged"],
        credit["wrong_reference"]["wrong"],
    ) == (1, 3, 1)
    assert credit["changed"] == {
        "candidates": 1,
        "commits": 1,
        "by_standard": {"better": 0, "worse": 1, "neither": 0},
        "by_reference": {"better": 0, "worse": 1, "neither": 0},
        "in_right_answers": 0,
        "in_wrong_answers": 1,
    }
    assert [
        (c["position"], c["pass"], c["top"], c["written"], c["by_standard"])
        for c in analysis["changes"]
    ] == [(1, 2, 6, 8, "worse")]
    assert analysis["steps"]["credit"] == {
        "positions": [0, 2, 3],
        "candidate": [1, 3, 3],
        "commit": [1, 3, 3],
        "oracle": [1, 3, 3],
    }
    assert analysis["tokens"]["fixed"][0]["candidate"] == [1, 2, 3, 3] and analysis["tokens"][
        "fixed"
    ][0]["redundancy"] == [0, 0, 1, 0]
    assert analysis["oracle"] == {"nfe": 3, "told": 0}


def test_a_change_for_the_better_and_what_a_trace_does_not_say() -> None:
    trace = credit_trace()
    other = standard_trace()
    other.steps[1] = step(0, 1, {3: (8, 0.6, True)})
    other.finish = FinishEvent(0, "stop", (5, 8, 7), 0.4)
    record = analyse([PromptTraces({"fixed": other, "credit": trace})])["decoders"][1]
    assert (
        record["changed"]["by_standard"]["better"] == 1
        and record["score"] is None
        and record["over_oracle"] is None
    )
    trace.steps = [replace(step, top=None) for step in trace.steps]
    assert (
        analyse([PromptTraces({"fixed": other, "credit": trace})])["decoders"][1]["changed"] is None
    )


def test_without_standard_decoding_only_what_one_trace_says() -> None:
    analysis = analyse([PromptTraces({"credit": credit_trace()})])
    assert (
        analysis["calibration"] is None
        and analysis["decoders"][0]["wrong"] is None
        and analysis["decoders"][0]["nfe"] == 3
    )
    assert analysis["steps"]["credit"]["positions"] == [0, 1, 2, 3]


def test_pictures_of_little(tmp_path: Path) -> None:
    analysis = analyse([PromptTraces({"fixed": standard_trace(), "credit": credit_trace()})])
    steps_png(analysis, tmp_path / "s.png")
    reliability_png(analysis, tmp_path / "r.png")
    with pytest.raises(OptionError, match="fixed"):
        reliability_png(analyse([PromptTraces({"credit": credit_trace()})]), tmp_path / "n.png")
