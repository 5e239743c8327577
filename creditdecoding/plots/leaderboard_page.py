"""A leaderboard as one HTML page without external resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from creditdecoding.eval.leaderboard import Leaderboard, aup_table

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("static")),
    autoescape=True,
)


def leaderboard_html(board: Leaderboard) -> str:
    """The page: for each task the methods by AUP, with all their points."""
    areas = aup_table(board)
    tasks = [{"name": task, "methods": _rows(board, areas, task)} for task in board]
    return _TEMPLATES.get_template("leaderboard.html").render(tasks=tasks)


def _rows(board: Leaderboard, areas: dict[str, dict[str, float]], task: str) -> list[Any]:
    rows = [
        {"name": method, "aup": areas[task][method], "points": sorted(map(tuple, points))}
        for method, points in board[task].items()
    ]
    return sorted(rows, key=lambda row: -row["aup"])
