"""Forward passes per answer token and score over lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import (
    label_ends,
    line_styles,
    log_around,
    new_figure,
    save,
    style,
)
from creditdecoding.viewer.labels import spec_label

_ROWS = {
    "per_token": "passes per answer token",
    "score": "score, %",
}
_COLUMN = 3.4
"""Inches of a column."""
_NAMES = 1.6
"""Inches on the right for the decoders' names."""

Sweep = Mapping[str, Any]


def lengths_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw a column for each sweep: passes per token above, score below, with 95 % intervals; the
    lines of the last column are named at their ends.

    Raises `MissingExtraError`.
    """
    sweeps = report["sweeps"]
    specs = report["decoders"]
    width = 0.75 + _COLUMN * max(1, len(sweeps)) + _NAMES
    panel_width = _COLUMN / width * 0.84
    figure = new_figure(width, 6.2)
    ends = _interval_ends(sweeps)
    for column, sweep in enumerate(sweeps):
        left = (0.75 + _COLUMN * column) / width
        for row, (measure, label) in enumerate(_ROWS.items()):
            bottom = 0.56 - 0.44 * row
            axes = figure.add_axes((left, bottom, panel_width, 0.4))
            _draw_sweep(axes, sweep, specs, measure)
            if measure == "score":
                axes.set_ylim(-3, 103)
            else:
                log_around(axes.yaxis, ends)
            xlabel = sweep["title"] if row else ""
            ylabel = "" if column else label
            style(axes, xlabel=xlabel, ylabel=ylabel)
            if sweep is sweeps[-1]:
                label_ends(axes, _ends(sweep, specs, measure))
    save(figure, path)


def _interval_ends(sweeps: Sequence[Sweep]) -> list[float]:
    """Both ends of every interval of passes per token, so that all columns have one axis."""
    ends = []
    for sweep in sweeps:
        for point in sweep["points"]:
            for cell in point["decoders"]:
                interval = cell["per_token"]
                ends += [interval["low"], interval["high"]]
    return ends


def _ends(sweep: Sweep, specs: Sequence[str], measure: str) -> list[tuple[float, str, str]]:
    """Height, name and colour of each decoder's line at its right end."""
    cells = sweep["points"][-1]["decoders"]
    styles = line_styles(specs)
    return [
        (cell[measure]["value"], spec_label(spec), styles[spec]["color"])
        for cell, spec in zip(cells, specs)
    ]


def _draw_sweep(axes: Any, sweep: Sweep, specs: Sequence[str], measure: str) -> None:
    """Draw a line for every decoder, moved apart a little so that intervals do not overlap."""
    points = sweep["points"]
    ticks = [point["value"] for point in points]
    if sweep["name"] != "answer":
        ticks = [math.log2(value) for value in ticks]
    gap = 0.012 * (max(ticks) - min(ticks) or 1.0)
    middle = (len(specs) - 1) / 2
    for column, line in enumerate(line_styles(specs).values()):
        shift = gap * (column - middle)
        x = [tick + shift for tick in ticks]
        cells = [point["decoders"][column][measure] for point in points]
        axes.plot(
            x,
            [cell["value"] for cell in cells],
            marker="o",
            markersize=4,
            linewidth=1.8,
            **line,
        )
        axes.vlines(
            x,
            [cell["low"] for cell in cells],
            [cell["high"] for cell in cells],
            color=line["color"],
            linewidth=1,
            alpha=0.6,
        )
    labels = [point["label"] for point in points]
    axes.set_xticks(ticks, labels=labels)
