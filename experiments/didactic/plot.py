"""The figure of the didactic task, drawn on a figure that is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import legend, log_around, new_figure, save, style
from creditdecoding.viewer.colours import EXTRA, LINE, SERIES, colour_at

_ARMS = {
    "outcome": (SERIES["standard"], "-"),
    "q": (EXTRA, "-"),
    "effective": (SERIES["credit"], "-"),
    "effective-q": (SERIES["thrift"], "-"),
    "telescoped": (SERIES["threshold"], (0, (4, 2))),
}
_WORDS = {
    "outcome": "outcome rewards",
    "q": "values of the policy",
    "effective": "process rewards",
    "effective-q": "process rewards and values",
    "telescoped": "telescoped rewards",
}
_SHOWN = 4
"""Provers of an arm that have a curve of their own."""
_PALE = {
    "effective": ("#9cc9ef", "#16466f"),
    "effective-q": ("#a9d8b8", "#1f5a35"),
    "telescoped": ("#f3bf8d", "#8a3f05"),
}

Cell = Mapping[str, Any]


def didactic_size(report: Mapping[str, Any]) -> tuple[float, float]:
    """Inches."""
    return 14.5, 4.6


def draw_didactic(figure: Any, report: Mapping[str, Any]) -> None:
    """Success over updates, updates until 95 % over the prover's strength, Pass@N after a few
    updates; bands and bars are 95% intervals.
    """
    shown = _shown(report["cells"])
    panels = [figure.add_axes((start, 0.2, 0.268, 0.7)) for start in (0.04, 0.375, 0.71)]
    left, middle, right = panels
    for cell, colour in shown:
        _success(left, cell, colour, report["settings"]["every"])
        _pass(right, cell, colour)
    before = report["before"]
    right.plot(
        before["samples"],
        [100 * record["value"] for record in before["pass"]],
        color=LINE,
        linewidth=1.4,
        linestyle=(0, (1, 1.5)),
        label="before",
    )
    looks = [look["iteration"] for cell in report["cells"] for look in cell["curve"]]
    log_around(left.xaxis, [max(look, report["settings"]["every"] / 2) for look in looks])
    _steps(middle, report["cells"], max(looks))
    log_around(right.xaxis, before["samples"])
    for axes in (left, right):
        axes.set_ylim(-3, 103)
    after = report["settings"]["pass_at"]
    titles = (
        ("Chance of success, %", "updates"),
        ("Updates until 95 %", "strength of the prover"),
        (f"Pass@N after {after} updates, %", "N"),
    )
    for axes, (title, below) in zip(panels, titles):
        style(axes, title, xlabel=below)
    legend(
        figure,
        right.get_legend_handles_labels()[0],
        loc="lower center",
        ncols=8,
        fontsize=8,
        handlelength=1.6,
        columnspacing=1.3,
    )


def _shown(cells: Sequence[Cell]) -> list[tuple[Cell, str]]:
    """The cells that get curves with their colours: of an arm with many provers a few between the
    weakest and the strongest, darker with strength.
    """
    shown: list[tuple[Cell, str]] = []
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        arms = sorted(
            (cell for cell in cells if cell["arm"] == arm), key=lambda cell: cell["strength"] or 0.0
        )
        places = (
            range(len(arms))
            if len(arms) <= _SHOWN
            else [round(n * (len(arms) - 1) / (_SHOWN - 1)) for n in range(_SHOWN)]
        )
        for number, cell in enumerate(places):
            colour = (
                _ARMS[arm][0]
                if len(arms) == 1
                else colour_at(_PALE[arm], number / (len(places) - 1))
            )
            shown.append((arms[cell], colour))
    return shown


def _name(cell: Cell) -> str:
    words = _WORDS[cell["arm"]]
    return words if cell["strength"] is None else f"{words}, prover {cell['strength']:g}"


def _success(axes: Any, cell: Cell, colour: str, every: int) -> None:
    """Mean over seeds with its interval; the look before the first update stands at half a step."""
    x = [max(look["iteration"], every / 2) for look in cell["curve"]]
    low, high, value = (
        [100 * look[name] for look in cell["curve"]] for name in ("low", "high", "value")
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(x, value, color=colour, linewidth=1.8, linestyle=_ARMS[cell["arm"]][1])


def _pass(axes: Any, cell: Cell, colour: str) -> None:
    drawn = cell["pass_at"]
    low, high, value = (
        [100 * record[name] for record in drawn["pass"]] for name in ("low", "high", "value")
    )
    axes.fill_between(drawn["samples"], low, high, color=colour, alpha=0.1, linewidth=0)
    axes.plot(
        drawn["samples"],
        value,
        color=colour,
        linewidth=1.8,
        linestyle=_ARMS[cell["arm"]][1],
        label=_name(cell),
    )


def _steps(axes: Any, cells: Sequence[Cell], top: int) -> None:
    """Medians with their intervals: dots over strengths, lines across for arms without a prover; a
    triangle where half of the runs never arrive.
    """
    strengths, heights = (
        [cell["strength"] for cell in cells if cell["strength"] is not None],
        [float(top)],
    )
    for number, arm in enumerate(dict.fromkeys(cell["arm"] for cell in cells)):
        colour, dash = _ARMS[arm]
        arms = sorted(
            (cell for cell in cells if cell["arm"] == arm), key=lambda cell: cell["strength"] or 0.0
        )
        ends = [cell["updates"]["most"] for cell in arms]
        values = [_height(end["value"], top) for end in ends]
        lows = [
            _height(end["low"], top) if end["known"] else value for end, value in zip(ends, values)
        ]
        highs = [
            _height(end["high"], top) if end["known"] else value for end, value in zip(ends, values)
        ]
        heights += lows
        if arms[0]["strength"] is None:
            axes.axhspan(lows[0], highs[0], color=colour, alpha=0.13, linewidth=0)
            axes.axhline(values[0], color=colour, linewidth=1.8, linestyle=dash)
            continue
        x = [cell["strength"] * 1.02**number for cell in arms]
        axes.plot(x, values, color=colour, linewidth=1.8, linestyle=dash, marker="o", markersize=4)
        axes.vlines(x, lows, highs, color=colour, linewidth=1.2, alpha=0.7)
        missed = [iteration for iteration, end in zip(x, ends) if end["value"] is None]
        axes.plot(missed, [top] * len(missed), linestyle="", marker="^", markersize=9, color=colour)
    log_around(axes.xaxis, strengths or [1.0])
    log_around(axes.yaxis, heights)


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
