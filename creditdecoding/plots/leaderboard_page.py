"""A leaderboard as one HTML page without external resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from creditdecoding.plots.pages import render_page

Points = Mapping[str, Sequence[Sequence[float]]]
"""(tokens a pass, score) of each setting of a method, by method."""


def leaderboard_html(board: Mapping[str, Points], aup: Mapping[str, Mapping[str, float]]) -> str:
    """The page: for each task its methods by AUP, with all their points."""
    tasks = [{"name": task, "methods": _rows(board[task], aup[task])} for task in board]
    return render_page("leaderboard.html", tasks=tasks)


def _rows(points: Points, aup: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = [
        {"name": method, "aup": aup[method], "points": sorted(map(tuple, points[method]))}
        for method in points
    ]
    return sorted(rows, key=lambda row: -row["aup"])
