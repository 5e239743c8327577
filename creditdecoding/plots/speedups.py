"""Forward passes and speed of every decoder under every other speed-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import line_styles, log_around, new_figure, save, spread, style
from creditdecoding.viewer.colours import QUIET
from creditdecoding.viewer.labels import spec_label

Report = Mapping[str, Any]
Measure = Callable[[Mapping[str, Any]], float]

_NAME_GAP = 20
"""Points between two names."""


def speedups_png(report: Report, path: Path) -> None:
    """Draw passes on the left and speed on the right, a row of dots for each setting; the dots of
    the first row are named.

    Both axes are logarithmic, so gains multiply where the distances between colours stay the same.
    Raises `MissingExtraError`.
    """
    names = [setting["name"] for setting in report["settings"]]
    no_names = [""] * len(names)
    height = 1.9 + 0.36 * len(names)
    figure = new_figure(10, height)
    for number, (label, measure) in enumerate(_measures(report).items()):
        box = (
            0.2 + 0.4 * number,
            0.8 / height,
            0.35,
            1 - 1.5 / height,
        )
        axes = figure.add_axes(box)
        _draw_rows(axes, report, measure)
        labels = no_names if number else names
        axes.set_yticks(range(len(names)), labels=labels)
        style(axes, xlabel=label)
        _name_dots(axes)
    figure.text(
        0.2,
        0.1 / height,
        "Equal distances between the colours from row to row: the gains multiply.",
        fontsize=9,
        color=QUIET,
    )
    save(figure, path)


def _measures(report: Report) -> dict[str, Measure]:
    """What each panel draws, by its label."""
    base = report["settings"][0]["decoders"][0]["seconds"]

    def passes(cell: Mapping[str, Any]) -> float:
        return float(cell["nfe"])

    def speed(cell: Mapping[str, Any]) -> float:
        return float(base / max(1e-9, cell["seconds"]))

    return {
        "forward passes a request": passes,
        f"speed relative to {spec_label(report['decoders'][0])} at the base": speed,
    }


def _draw_rows(axes: Any, report: Report, measure: Measure) -> None:
    """Draw a dot for each decoder and setting; a text where a setting could not be measured."""
    settings = report["settings"]
    measured = [row for row, setting in enumerate(settings) if setting["decoders"]]
    values = []
    for column, (spec, line) in enumerate(line_styles(report["decoders"]).items()):
        cells = [settings[row]["decoders"][column] for row in measured]
        x = [measure(cell) for cell in cells]
        axes.plot(
            x,
            measured,
            "o",
            markersize=7,
            color=line["color"],
            label=spec_label(spec),
        )
        values += x
    log_around(axes.xaxis, values)
    axes.set_ylim(len(settings) - 0.5, -0.5)
    for row in range(len(settings)):
        if row not in measured:
            axes.text(
                0.02,
                row,
                "not measured",
                transform=axes.get_yaxis_transform(),
                fontsize=8,
                color=QUIET,
                va="center",
            )


def _name_dots(axes: Any) -> None:
    """Write each decoder's name over its dot of the first row, or as near as other names allow."""
    dots = sorted(axes.lines, key=lambda line: float(line.get_xdata()[0]))
    points_per_pixel = 72 / axes.figure.dpi
    left, _ = axes.transAxes.transform((0, 0))
    columns = []
    for dot in dots:
        pixel, _ = axes.transData.transform((dot.get_xdata()[0], 0))
        columns.append((pixel - left) * points_per_pixel)
    for column, dot in zip(spread(columns, _NAME_GAP), dots):
        axes.annotate(
            dot.get_label(),
            xy=(0, 1),
            xycoords="axes fraction",
            xytext=(column - 3, 4),
            textcoords="offset points",
            fontsize=9,
            color=dot.get_color(),
            rotation=30,
            rotation_mode="anchor",
            annotation_clip=False,
        )
