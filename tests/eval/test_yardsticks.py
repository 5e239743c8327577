"""Spread of passes, tokens counted in three ways, and the points of a leaderboard, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.eval.sweep import parse_curves
from creditdecoding.eval.yardsticks import parallelism, yardsticks


def record(task: str, spec: str, nfe: int, tokens: int, right: bool, **more: Any) -> dict[str, Any]:
    return {"family": task, "decoder": spec, "nfe": nfe, "tokens": tokens, "right": right, **more}


def test_tasks_weigh_the_same_and_tokens_are_counted_in_three_ways() -> None:
    """Task a: 3 answers of 10 tokens in 5 passes, all ended; task b: one of 30 in 15, cut off."""
    ended = {"finish": "stop", "seconds": 0.5, "outside_share": 0.1}
    records = [record("a", "credit", 5, 10, True, **ended) for _ in range(3)]
    records.append(record("b", "credit", 15, 30, False, finish="length", seconds=1.5))
    assert yardsticks(records, 64)["credit"]["outside_share"] is None
    records[-1]["outside_share"] = 0.3
    numbers = yardsticks(records, gen_length=64)["credit"]
    assert numbers["tpf"] == {"visible": 2.0, "with_stop": 2.05, "full_span": 6.4}
    assert numbers["seconds"] == 1.0
    assert numbers["outside_share"] == 0.2
    assert numbers["nfe_spread"] == [5.0, 5.0, pytest.approx(12.0), 15.0]
    del records[0]["seconds"]
    assert yardsticks(records, 64)["credit"]["seconds"] is None


def test_points_of_curves_by_task_and_over_all() -> None:
    curves = parse_curves("threshold:threshold=0.5|0.9")
    low, high = (point.spec for point in curves[0].points)
    records = [
        record("a", low, 2, 10, False),
        record("a", low, 4, 10, True),
        record("b", low, 5, 30, True),
        record("a", high, 10, 10, True),
        record("a", high, 10, 10, True),
        record("b", high, 30, 30, True),
    ]
    name = curves[0].name
    board = parallelism(records, curves)
    assert board["a"] == {name: [[round(10 / 3, 4), 50.0], [1.0, 100.0]]}
    assert board["b"] == {name: [[6.0, 100.0], [1.0, 100.0]]}
    assert board["all"] == {name: [[5.0, 75.0], [1.0, 100.0]]}
    assert list(parallelism(records[:2] + records[3:5], curves)) == ["a"]
    with pytest.raises(OptionError, match="no answers"):
        parallelism([], curves)
