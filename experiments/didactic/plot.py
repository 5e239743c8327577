"""The figure of the didactic task, drawn on a figure that is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import (
    DASHED,
    band,
    label_ends,
    log_around,
    new_figure,
    save,
    style,
)
from creditdecoding.viewer.colours import EXTRA, LINE, QUIET, SERIES

_COLOURS = {
    "outcome": SERIES["standard"],
    "q": EXTRA,
    "effective": SERIES["credit"],
    "effective-q": SERIES["thrift"],
    "telescoped": SERIES["threshold"],
}
_WORDS = {
    "outcome": "outcome rewards",
    "q": "values of the policy",
    "effective": "process rewards",
    "effective-q": "process rewards and values",
    "telescoped": "telescoped rewards",
}
_BOX = (0.13, 0.24, 0.76)
"""Bottom, width and height of a panel, as shares of the figure."""

Cell = Mapping[str, Any]


def didactic_size(report: Mapping[str, Any]) -> tuple[float, float]:
    """Inches."""
    return 14.5, 4.4


def draw_didactic(figure: Any, report: Mapping[str, Any]) -> None:
    """Success over updates, updates until 95 % over the prover's strength, Pass@N after a few
    updates; bands and bars are 95% intervals.

    Of an arm with many provers, the outer panels have the strongest one and, dashed, the weakest.
    """
    left = figure.add_axes((0.04, *_BOX))
    middle = figure.add_axes((0.325, *_BOX))
    right = figure.add_axes((0.61, *_BOX))
    settings = report["settings"]
    cells = report["cells"]
    before = report["before"]
    last_look = max(look["iteration"] for cell in cells for look in cell["curve"])
    ends = []
    for cell in _shown(cells):
        line = _line(cell, cells)
        _success(left, cell, line, settings["every"])
        _pass(right, cell, line)
        ends.append(_end(cell, line))
    _before(right, before)
    ends.append(_end_before(before))
    _steps(middle, cells, last_look)
    log_around(left.xaxis, [settings["every"] / 2, last_look])
    log_around(right.xaxis, before["samples"])
    left.set_ylim(-3, 103)
    right.set_ylim(-3, 103)
    style(left, "Chance of success, %", xlabel="updates")
    style(middle, "Updates until 95 %", xlabel="strength of the prover")
    style(right, f"Pass@N after {settings['pass_at']} updates, %", xlabel="N")
    label_ends(right, ends)


def _shown(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that get curves: the strongest and the weakest prover of each arm."""
    shown: list[Cell] = []
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        arms = _by_strength(cells, arm)
        shown += arms[-1:] + arms[:-1][:1]
    return shown


def _by_strength(cells: Sequence[Cell], arm: str) -> list[Cell]:
    """The cells of an arm, the weakest prover first."""
    arms = [cell for cell in cells if cell["arm"] == arm]
    return sorted(arms, key=lambda cell: cell["strength"] or 0.0)


def _line(cell: Cell, cells: Sequence[Cell]) -> dict[str, Any]:
    """Colour and dash of a cell's curve; only the strongest prover's is solid."""
    is_strongest = cell is _by_strength(cells, cell["arm"])[-1]
    return {
        "color": _COLOURS[cell["arm"]],
        "linestyle": "-" if is_strongest else DASHED,
        "linewidth": 1.8,
    }


def _name(cell: Cell) -> str:
    words = _WORDS[cell["arm"]]
    return words if cell["strength"] is None else f"{words}, prover {cell['strength']:g}"


def _end(cell: Cell, line: Mapping[str, Any]) -> tuple[float, str, str]:
    """Height, name and colour of a curve of Pass@N at its right end."""
    return 100 * cell["pass_at"]["pass"][-1]["value"], _name(cell), line["color"]


def _end_before(before: Mapping[str, Any]) -> tuple[float, str, str]:
    return 100 * before["pass"][-1]["value"], "before the first update", QUIET


def _success(axes: Any, cell: Cell, line: Mapping[str, Any], every: int) -> None:
    """Mean over seeds with its interval; the look before the first update stands at half a step."""
    x = [max(look["iteration"], every / 2) for look in cell["curve"]]
    _curve(axes, x, cell["curve"], line)


def _pass(axes: Any, cell: Cell, line: Mapping[str, Any]) -> None:
    _curve(axes, cell["pass_at"]["samples"], cell["pass_at"]["pass"], line)


def _curve(
    axes: Any, x: Sequence[float], points: Sequence[Mapping[str, float]], line: Mapping[str, Any]
) -> None:
    """A line through shares, in per cent, and the band of their intervals."""
    names = ("low", "value", "high")
    per_cent = [{name: 100 * point[name] for name in names} for point in points]
    band(axes, x, per_cent, **line)


def _before(axes: Any, before: Mapping[str, Any]) -> None:
    values = [100 * record["value"] for record in before["pass"]]
    axes.plot(before["samples"], values, color=LINE, linewidth=1.4, linestyle=(0, (1, 1.5)))


def _steps(axes: Any, cells: Sequence[Cell], top: int) -> None:
    """Medians with their intervals: dots over strengths, lines across for arms without a prover; a
    triangle where half of the runs never arrive.
    """
    strengths = [cell["strength"] for cell in cells if cell["strength"] is not None]
    heights = [float(top)]
    for number, arm in enumerate(dict.fromkeys(cell["arm"] for cell in cells)):
        arms = _by_strength(cells, arm)
        intervals = [_interval(cell["updates"]["most"], top) for cell in arms]
        heights += [interval["low"] for interval in intervals]
        if arms[0]["strength"] is None:
            _across(axes, intervals[0], _COLOURS[arm])
            continue
        x = [cell["strength"] * 1.02**number for cell in arms]
        _dots(axes, x, intervals, _COLOURS[arm])
        missed = [
            strength for strength, cell in zip(x, arms) if cell["updates"]["most"]["value"] is None
        ]
        never = {"linestyle": "", "marker": "^", "markersize": 9, "color": _COLOURS[arm]}
        axes.plot(missed, [top] * len(missed), **never)
    log_around(axes.xaxis, strengths or [1.0])
    log_around(axes.yaxis, heights)


def _interval(end: Mapping[str, Any], top: int) -> dict[str, float]:
    """Heights of a median and of the ends of its interval; of no height where it is not known."""
    value = _height(end["value"], top)
    if not end["known"]:
        return {"low": value, "value": value, "high": value}
    return {"low": _height(end["low"], top), "value": value, "high": _height(end["high"], top)}


def _across(axes: Any, interval: Mapping[str, float], colour: str) -> None:
    axes.axhspan(interval["low"], interval["high"], color=colour, alpha=0.13, linewidth=0)
    axes.axhline(interval["value"], color=colour, linewidth=1.8)


def _dots(
    axes: Any, x: Sequence[float], intervals: Sequence[Mapping[str, float]], colour: str
) -> None:
    values = [interval["value"] for interval in intervals]
    lows = [interval["low"] for interval in intervals]
    highs = [interval["high"] for interval in intervals]
    axes.plot(x, values, color=colour, linewidth=1.8, marker="o", markersize=4)
    axes.vlines(x, lows, highs, color=colour, linewidth=1.2, alpha=0.7)


def _height(updates: float | None, top: int) -> float:
    """Where a number of updates stands: never is at the top."""
    return float(top) if updates is None else max(1.0, updates)


def didactic_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw the arms of the didactic task: success, the prover's strength, Pass@N. Raises
    `MissingExtraError`.
    """
    figure = new_figure(*didactic_size(report))
    draw_didactic(figure, report)
    save(figure, path)
