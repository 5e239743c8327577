"""Forward passes per answer token and score over lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import legend, line_styles, log_around, new_figure, save, style
from creditdecoding.viewer.labels import spec_label

_ROWS = {
    "per_token": "passes per answer token",
    "score": "score, %",
}
_COLUMN = 3.4
"""Inches of a column."""

Sweep = Mapping[str, Any]


def lengths_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw a column for each sweep: passes per token above, score below, with 95 % intervals.

    Raises `MissingExtraError`.
    """
    sweeps = report["sweeps"]
    specs = report["decoders"]
    width = 1.2 + _COLUMN * max(1, len(sweeps))
    panel_width = _COLUMN / width * 0.84
    figure = new_figure(width, 6.2)
    ends = _interval_ends(sweeps)
    for column, sweep in enumerate(sweeps):
        left = (0.75 + _COLUMN * column) / width
        for row, (measure, label) in enumerate(_ROWS.items()):
            bottom = 0.53 - 0.42 * row
            axes = figure.add_axes((left, bottom, panel_width, 0.38))
            _draw_sweep(axes, sweep, specs, measure)
            if measure == "score":
                axes.set_ylim(-3, 103)
            else:
                log_around(axes.yaxis, ends)
            xlabel = sweep["title"] if row else ""
            ylabel = "" if column else label
            style(axes, xlabel=xlabel, ylabel=ylabel)
    if sweeps:
        legend(
            figure,
            axes.lines,
            loc="upper center",
            ncols=len(specs),
        )
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


def _draw_sweep(axes: Any, sweep: Sweep, specs: Sequence[str], measure: str) -> None:
    """Draw a line for every decoder, moved apart a little so that intervals do not overlap."""
    points = sweep["points"]
    ticks = [point["value"] for point in points]
    if sweep["name"] != "answer":
        ticks = [math.log2(value) for value in ticks]
    gap = 0.012 * (max(ticks) - min(ticks) or 1.0)
    middle = (len(specs) - 1) / 2
    for column, (spec, line) in enumerate(line_styles(specs).items()):
        shift = gap * (column - middle)
        x = [tick + shift for tick in ticks]
        cells = [point["decoders"][column][measure] for point in points]
        axes.plot(
            x,
            [cell["value"] for cell in cells],
            marker="o",
            markersize=4,
            linewidth=1.8,
            label=spec_label(spec),
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
