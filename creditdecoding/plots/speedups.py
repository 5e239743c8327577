"""Forward passes and speed of every decoder under every other speed-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import legend, line_styles, log_around, new_figure, save, style
from creditdecoding.viewer.colours import QUIET


def speedups_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw passes on the left and speed on the right, a row of dots for each setting.

    Both axes are logarithmic, so gains multiply where the distances between colours stay the same.
    Raises `MissingExtraError`.
    """
    settings = report["settings"]
    height = 1.4 + 0.36 * len(settings)
    figure = new_figure(11.5, height)
    base = settings[0]["decoders"][0]["seconds"]
    panels = {
        "forward passes a request": lambda cell: cell["nfe"],
        f"speed relative to {report['decoders'][0]} at the base": lambda cell: (
            base / max(1e-9, cell["seconds"])
        ),
    }
    for number, (label, value) in enumerate(panels.items()):
        axes = figure.add_axes((0.17 + 0.36 * number, 0.8 / height, 0.33, 1 - 1.0 / height))
        _draw_rows(axes, report, value)
        names = [setting["name"] for setting in settings]
        axes.set_yticks(range(len(names)), labels=[""] * len(names) if number else names)
        style(axes, xlabel=label)
    legend(axes, axes.lines, loc="center left", bbox_to_anchor=(1.03, 0.5))
    note = "Equal distances between the colours from row to row: the gains multiply."
    figure.text(0.17, 0.1 / height, note, fontsize=9, color=QUIET)
    save(figure, path)


def _draw_rows(axes: Any, report: Mapping[str, Any], value: Callable[[Any], float]) -> None:
    """A dot for each decoder and setting; a text where a setting could not be measured."""
    settings = report["settings"]
    measured = [row for row, setting in enumerate(settings) if setting["decoders"]]
    for column, (spec, line) in enumerate(line_styles(report["decoders"]).items()):
        values = [value(settings[row]["decoders"][column]) for row in measured]
        axes.plot(values, measured, "o", markersize=7, color=line["color"], label=spec)
    log_around(axes.xaxis, [x for line in axes.lines for x in line.get_xdata()])
    axes.set_ylim(len(settings) - 0.5, -0.5)
    text = {"fontsize": 8, "color": QUIET, "va": "center"}
    for row in range(len(settings)):
        if row not in measured:
            place = axes.get_yaxis_transform()
            axes.text(0.02, row, "not measured", transform=place, **text)
