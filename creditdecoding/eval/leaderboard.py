"""Area under the parallelism curve (AUP), as the leaderboard of d3LLM computes it, and its files.

A file is YAML, `task: method: [[tokens a forward pass, score in percent], ...]`. With points
sorted by parallelism rho, y their scores, and y_best the best score of any method on the task:

    AUP = rho_1 y_1 + sum over i of (rho_i - rho_(i-1)) (y_i W(y_i) + y_(i-1) W(y_(i-1))) / 2
    W(y) = min(exp(-3 (1 - y / y_best)), 1)

Only points with y >= y_1 - 5 count. d3LLM's code refuses a file that has others, so what is
written leaves them out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from creditdecoding.errors import OptionError

ALLOWED_LOSS = 5.0
"""Points of score below the first point from which on a point does not count."""
STEEPNESS = 3.0

CurvePoints = Sequence[Sequence[float]]
"""(tokens a forward pass, score in percent) of each setting of a method."""
Leaderboard = Mapping[str, Mapping[str, CurvePoints]]
"""The points of every method on every task."""
ALL_TASKS = "all"
"""The task that stands for the mean over the others."""


def area_under_parallelism(points: CurvePoints, best_score: float) -> float:
    """AUP of one method on one task. `best_score` is the best score of any method there."""
    counted = counted_points(points)
    first_rho, first_score = counted[0]
    area = first_rho * first_score
    for (rho_before, score_before), (rho, score) in itertools.pairwise(counted):
        height = _weighted(score, best_score) + _weighted(score_before, best_score)
        area += 0.5 * (rho - rho_before) * height
    return area


def counted_points(points: CurvePoints) -> list[tuple[float, float]]:
    """The points that count, by parallelism; those of equal parallelism stay in their order."""
    ordered = sorted(((float(rho), float(score)) for rho, score in points), key=_parallelism)
    least = ordered[0][1] - ALLOWED_LOSS
    return [(rho, score) for rho, score in ordered if score >= least]


def _parallelism(point: tuple[float, float]) -> float:
    return point[0]


def _weighted(score: float, best_score: float) -> float:
    """y W(y)."""
    if best_score <= 0:
        return 0.0
    return score * min(math.exp(-STEEPNESS * (1 - score / best_score)), 1.0)


def aup_table(board: Leaderboard) -> dict[str, dict[str, float]]:
    """AUP of every method on every task, rounded to two digits."""
    table = {}
    for task, methods in board.items():
        best_score = max(score for points in methods.values() for _, score in points)
        table[task] = {
            method: round(area_under_parallelism(points, best_score), 2)
            for method, points in methods.items()
        }
    return table


def merge(boards: Iterable[Leaderboard]) -> dict[str, dict[str, CurvePoints]]:
    """One board of several; of a method that two have on the same task, the later one's points.

    Means over all tasks are left out where boards have different tasks.
    """
    boards = list(boards)
    merged: dict[str, dict[str, CurvePoints]] = {}
    for board in boards:
        for task, methods in board.items():
            merged.setdefault(task, {}).update(methods)
    if any(board.keys() != merged.keys() for board in boards) and len(merged) > 1:
        merged.pop(ALL_TASKS, None)
    return merged


def to_yaml(board: Leaderboard) -> str:
    """The file of a board: of each method the points that count."""
    plain = {
        task: {
            method: [list(point) for point in counted_points(points)]
            for method, points in methods.items()
        }
        for task, methods in board.items()
    }
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None))


def read_leaderboard(path: Path) -> Leaderboard:
    """The board in a YAML file, or in the report.json of `credit compare`.

    Raises `OptionError` if it cannot be read or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"the leaderboard cannot be read ({reason})",
            given=str(path),
            hint="Give a YAML file, or the report.json of credit compare.",
        ) from error
    if isinstance(content, dict) and "parallelism" in content:
        content = content["parallelism"]
    _check_board(content, str(path))
    board: Leaderboard = content
    return board


def _check_board(board: Any, location: str) -> None:
    """Raise `OptionError` where there is something else than a board."""
    if not isinstance(board, dict) or not board:
        raise _no_board("no tasks", location)
    for task, methods in board.items():
        _check_name(task, location)
        _check_methods(methods, f"{location}: {task}")


def _check_name(name: Any, location: str) -> None:
    """Raise `OptionError` for a name that YAML reads as something else than text."""
    if isinstance(name, str):
        return
    raise OptionError(
        "a name in the leaderboard is no text",
        given=f"{location}: {name}",
        allowed=f'"{name}", in quotes',
        hint="Put quotes around it.",
    )


def _check_methods(methods: Any, location: str) -> None:
    if not isinstance(methods, dict) or not methods:
        raise _no_board("a task without methods", location)
    for method, points in methods.items():
        _check_name(method, location)
        _check_points(points, f"{location}: {method}")


def _check_points(points: Any, location: str) -> None:
    if not isinstance(points, list) or not points:
        raise _no_board("a method without points", location)
    if not all(_is_point(point) for point in points):
        raise _no_board("something that is no point", location)


def _no_board(what: str, location: str) -> OptionError:
    return OptionError(
        f"the leaderboard has {what}",
        given=location,
        allowed="task: method: [[tokens a forward pass > 0, score from 0 to 100], ...]",
        hint="Correct that entry.",
    )


def _is_point(point: Any) -> bool:
    if not isinstance(point, list) or len(point) != 2:
        return False
    if not all(type(value) in (int, float) and math.isfinite(value) for value in point):
        return False
    return bool(point[0] > 0 and 0 <= point[1] <= 100)
