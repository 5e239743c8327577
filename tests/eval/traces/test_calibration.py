"""Observations by hand, the rule of the verdict, and made-up models whose calibration is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from creditdecoding.eval.traces.calibration import calibration, observations, verdict
from creditdecoding.eval.traces.commit_timing import token_timings
from creditdecoding.trace import FinishEvent, Trace
from tests.helpers.analysis_traces import standard_trace, step


def test_observations_by_hand() -> None:
    trace = standard_trace()
    prompt = (trace, token_timings(trace), {2: 5, 3: 8, 4: 7})
    rows = observations([prompt])
    assert rows["confidence"].tolist() == [0.9, 0.3, 0.6, 0.4, 0.8, 0.7]
    assert rows["ratio"].tolist() == [1, 1, 0.5, 1, 1, 0.5]
    assert rows["run"].tolist() == [1, 1, 1, 1, 1, 2]
    assert rows["final"].tolist() == [True, False, True, True, True, True]
    assert rows["judged"].tolist() == [True, True, True, True, False, True]
    assert rows["right"].tolist() == [True, False, False, True, False, True]
    report = calibration([prompt])
    early = report["final"]["early"]
    assert (early["looks"], early["confidence"], early["frequency"]) == (4, 0.6, 0.75)
    assert early["gap"] == 15.0 and early["interval"] is None
    assert early["ece"] == pytest.approx(100 * (0.1 + 0.3 + 0.6 + 0.2) / 4)
    assert report["right"]["all"]["looks"] == 5
    assert set(report["verdict"].values()) == {"undecided"}


def made_up(chance: Any, prompts: int = 60, seed: int = 0) -> dict[str, Any]:
    """Reliability of a model that says 0.7 at four first passes of a block of 8; its choice is
    final with `chance(run)`.
    """
    rng = np.random.default_rng(seed)
    cases: list[Any] = []
    for _ in range(prompts):
        final = dict.fromkeys(range(1, 9), 5)
        shown: dict[int, list[int]] = {}
        for position in final:
            runs = 1 + int(rng.integers(4))  # a break before the last `runs` of four passes
            token = 5 if rng.random() < chance(runs) else 6
            shown[position] = [7 + n for n in range(4 - runs)] + [token] * runs
        steps = [
            step(0, n, {position: (shown[position][n], 0.7, False) for position in final})
            for n in range(4)
        ]
        steps.append(step(0, 4, dict.fromkeys(final, (5, 0.7, True))))
        trace = Trace((1,), steps, FinishEvent(0, "length", (5,) * 8, 1.0))
        cases.append((trace, token_timings(trace), None))
    return calibration(cases)


NO_GAIN = {"share": 0.0, "interval": [-0.1, 0.1]}
GAIN = {"share": 0.1, "interval": [0.05, 0.2]}


def judged(
    final: tuple[float, float, float],
    right: tuple[float, float, float] | None = None,
    recalibration: dict[str, Any] = NO_GAIN,
    history: dict[str, Any] = NO_GAIN,
) -> dict[str, str]:
    """The verdict on gaps with their intervals, of 50 prompts."""
    early: dict[str, Any] = {"right": {"gap": None, "interval": None}}
    for side, numbers in (("final", final), ("right", right)):
        if numbers is not None:
            gap, *interval = numbers
            early[side] = {"gap": gap, "interval": interval}
    return verdict(early, {"recalibration": recalibration, "history": history}, 50)


@pytest.mark.parametrize(
    ("gap", "kind"),
    [
        ((5, 3, 7), "underconfident"),
        ((-5, -7, -3), "overconfident"),
        ((0.5, -1, 2), "calibrated"),
        ((5, -1, 11), "undecided"),
        ((1.5, 0.5, 2.5), "undecided"),
    ],
)
def test_the_kind_follows_gap_and_interval(gap: tuple[float, float, float], kind: str) -> None:
    assert judged(gap)["kind"] == kind
    assert judged((5, 3, 7), right=gap)["kind_right"] == kind


def test_what_pays_follows_the_gains() -> None:
    gap = (5.0, 3.0, 7.0)
    small = {"share": 0.005, "interval": [0.001, 0.01]}
    assert judged(gap)["pays"] == "neither"
    assert judged(gap, history=small)["pays"] == "neither"
    assert judged(gap, recalibration=GAIN)["pays"] == "recalibration"
    assert judged(gap, history=GAIN)["pays"] == "history"
    assert judged(gap, recalibration=GAIN, history=GAIN)["pays"] == "both"


def test_history_pays_only_where_the_run_says_more_than_the_confidence() -> None:
    assert made_up(lambda run: run / 4)["gains"]["history"]["interval"][0] > 0.02
    plain = made_up(lambda run: 0.2)
    low, high = plain["gains"]["recalibration"]["interval"]
    assert 0 < low <= plain["gains"]["recalibration"]["share"] <= high
