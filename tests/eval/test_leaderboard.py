"""AUP against a sum by hand, and the files of leaderboards."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.eval.leaderboard import (
    area_under_parallelism,
    aup_table,
    merge,
    read_leaderboard,
    to_yaml,
)
from creditdecoding.plots.leaderboard_page import leaderboard_html
from tests.helpers.cli import run_credit


def test_area_by_hand() -> None:
    """Points (1, 80), (3, 78), (6, 74), best score 90; (6, 74) is 6 below the first."""
    points = [[3.0, 78.0], [6.0, 74.0], [1.0, 80.0]]
    weight_80 = math.exp(-3 * (1 - 80 / 90))
    weight_78 = math.exp(-3 * (1 - 78 / 90))
    expected = 1 * 80 + 0.5 * 2 * (78 * weight_78 + 80 * weight_80)
    assert area_under_parallelism(points, 90.0) == pytest.approx(expected)
    exactly_5_below = [[1.0, 80.0], [3.0, 75.0]]
    assert area_under_parallelism(exactly_5_below, 90.0) > 80


def test_weights_reach_one_at_the_best_score_and_never_exceed_it() -> None:
    points = [[2.0, 50.0], [4.0, 50.0]]
    assert area_under_parallelism(points, 50.0) == pytest.approx(2 * 50 + 2 * 50)
    assert area_under_parallelism(points, 40.0) == pytest.approx(2 * 50 + 2 * 50)
    assert area_under_parallelism([[2.0, 0.0], [4.0, 0.0]], 0.0) == 0.0
    assert area_under_parallelism([[2.0, 50.0]], 50.0) == 100.0


def test_equal_parallelism_keeps_the_order() -> None:
    """As d3LLM's code, whose sort is stable: its area here is 145.41."""
    points = [[1.0, 80.0], [1.0, 76.0], [2.0, 76.0]]
    weight = math.exp(-3 * (1 - 76 / 80))
    assert area_under_parallelism(points, 80.0) == pytest.approx(80 + 76 * weight)
    assert round(area_under_parallelism(points, 80.0), 2) == 145.41


def test_what_is_written_keeps_the_points_that_count(tmp_path: Path) -> None:
    """d3LLM's code refuses a method whose last point is more than 5 below its first."""
    board = {"gsm8k": {"credit": [[6.0, 74.0], [3.0, 78.0], [1.0, 80.0]]}}
    path = tmp_path / "board.yaml"
    path.write_text(to_yaml(board))
    written = read_leaderboard(path)
    assert written == {"gsm8k": {"credit": [[1.0, 80.0], [3.0, 78.0]]}}
    assert aup_table(written) == aup_table(board)


def test_a_mean_over_other_tasks_is_left_out() -> None:
    point = {"credit": [[1.0, 80.0]]}
    boards = [{"a": point, "b": point, "all": point}, {"c": point, "d": point, "all": point}]
    assert list(merge(boards)) == ["a", "b", "c", "d"]
    assert list(merge([boards[0], boards[0]])) == ["a", "b", "all"]
    assert list(merge([boards[0]])) == ["a", "b", "all"]
    assert list(merge([{"all": point}])) == ["all"]


def test_the_best_score_is_that_of_the_task() -> None:
    board = {
        "gsm8k": {"slow": [[1.0, 80.0]], "fast": [[1.0, 70.0], [5.0, 70.0]]},
        "math": {"fast": [[1.0, 40.0]]},
    }
    table = aup_table(board)
    weight = math.exp(-3 * (1 - 70 / 80))
    assert table["gsm8k"] == {"slow": 80.0, "fast": round(70 + 4 * 70 * weight, 2)}
    assert table["math"] == {"fast": 40.0}


def test_files_go_in_and_out(tmp_path: Path) -> None:
    board = {"gsm8k": {"credit": [[1.0, 80.0], [4.5, 79.25]]}}
    path = tmp_path / "board.yaml"
    path.write_text(to_yaml(board))
    assert read_leaderboard(path) == board
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"parallelism": board, "aup": {}}))
    assert read_leaderboard(report) == board
    other = {"gsm8k": {"credit": [[2.0, 70.0]], "klass": [[3.0, 60.0]]}, "math": {"a": [[1, 2]]}}
    merged = merge([board, other])
    assert list(merged["gsm8k"]) == ["credit", "klass"]
    assert merged["gsm8k"]["credit"] == [[2.0, 70.0]]
    assert "math" in merged


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no tasks"),
        ("[1, 2]", "no tasks"),
        ("gsm8k: 3", "a task without methods"),
        ("gsm8k: {credit: []}", "a method without points"),
        ("gsm8k: {credit: [[1, 2, 3]]}", "something that is no point"),
        ("gsm8k: {credit: [[0, 50]]}", "something that is no point"),
        ("gsm8k: {credit: [[1, 101]]}", "something that is no point"),
        ("gsm8k: {credit: [[.nan, 50]]}", "something that is no point"),
        ("gsm8k: [", "cannot be read"),
        ("gsm8k: {2026: [[1, 50]]}", "a name in the leaderboard is no text"),
        ("2026: {credit: [[1, 50]]}", "a name in the leaderboard is no text"),
        ("gsm8k: {credit: [[true, 50]]}", "something that is no point"),
    ],
)
def test_what_is_no_leaderboard_is_refused(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=what):
        read_leaderboard(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_leaderboard(tmp_path / "missing.yaml")


def test_the_command_merges_prints_and_writes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(to_yaml({"gsm8k": {"credit": [[1.0, 80.0]]}}))
    second.write_text(to_yaml({"gsm8k": {"<klass>": [[2.0, 60.0]]}}))
    out, page = tmp_path / "all.yaml", tmp_path / "page.html"
    result = run_credit(["leaderboard", first, second, "--out", out, "--page", page, "--json"])
    assert json.loads(result.stdout) == {"gsm8k": {"credit": 80.0, "<klass>": 120.0}}
    assert read_leaderboard(out) == read_leaderboard(first) | {
        "gsm8k": {"credit": [[1.0, 80.0]], "<klass>": [[2.0, 60.0]]}
    }
    assert "&lt;klass&gt;" in page.read_text()
    board = read_leaderboard(out)
    assert page.read_text() == leaderboard_html(board, aup_table(board))
