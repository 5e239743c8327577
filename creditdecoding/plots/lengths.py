"""Forward passes per answer token and score over lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import legend, line_styles, log_around, new_figure, save, style

_ROWS = {"per_token": "passes per answer token", "score": "score, %"}


def lengths_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw a column for each sweep: passes per token above, score below, with 95 % intervals.

    Raises `MissingExtraError`.
    """
    sweeps = report["sweeps"]
    width = 1.2 + 3.4 * max(1, len(sweeps))
    figure = new_figure(width, 6.2)
    ends = [
        cell["per_token"][end]
        for sweep in sweeps
        for point in sweep["points"]
        for cell in point["decoders"]
        for end in ("low", "high")
    ]
    for column, sweep in enumerate(sweeps):
        for row, (measure, label) in enumerate(_ROWS.items()):
            left = (0.75 + 3.4 * column) / width
            axes = figure.add_axes((left, 0.53 - 0.42 * row, 3.4 / width * 0.84, 0.38))
            _draw_sweep(axes, sweep, report["decoders"], measure)
            if measure == "score":
                axes.set_ylim(-3, 103)
            else:
                log_around(axes.yaxis, ends)
            style(axes, xlabel=sweep["title"] if row else "", ylabel="" if column else label)
    if sweeps:
        legend(figure, axes.lines, loc="upper center", ncols=len(report["decoders"]))
    save(figure, path)


def _draw_sweep(axes: Any, sweep: Mapping[str, Any], specs: Sequence[str], measure: str) -> None:
    """The points of a sweep for every decoder, moved apart a little so that bars do not overlap."""
    points = sweep["points"]
    logarithmic = sweep["name"] != "answer"
    ticks = [math.log2(point["value"]) if logarithmic else point["value"] for point in points]
    gap = 0.012 * (max(ticks) - min(ticks) or 1.0)
    for column, (spec, line) in enumerate(line_styles(specs).items()):
        x = [tick + gap * (column - (len(specs) - 1) / 2) for tick in ticks]
        cells = [point["decoders"][column][measure] for point in points]
        values = [cell["value"] for cell in cells]
        axes.plot(x, values, marker="o", markersize=4, linewidth=1.8, label=spec, **line)
        low = [cell["low"] for cell in cells]
        high = [cell["high"] for cell in cells]
        axes.vlines(x, low, high, color=line["color"], linewidth=1, alpha=0.6)
    axes.set_xticks(ticks, labels=[point["label"] for point in points])
