"""Forward passes and speed of every decoder under every other speed-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import legend, line_styles, log_around, new_figure, save, style
from creditdecoding.viewer.colours import QUIET
from creditdecoding.viewer.labels import spec_label

Report = Mapping[str, Any]
Measure = Callable[[Mapping[str, Any]], float]


def speedups_png(report: Report, path: Path) -> None:
    """Draw passes on the left and speed on the right, a row of dots for each setting.

    Both axes are logarithmic, so gains multiply where the distances between colours stay the same.
    Raises `MissingExtraError`.
    """
    names = [setting["name"] for setting in report["settings"]]
    no_names = [""] * len(names)
    height = 1.4 + 0.36 * len(names)
    figure = new_figure(11.5, height)
    for number, (label, measure) in enumerate(_measures(report).items()):
        box = (
            0.17 + 0.36 * number,
            0.8 / height,
            0.33,
            1 - 1.0 / height,
        )
        axes = figure.add_axes(box)
        _draw_rows(axes, report, measure)
        labels = no_names if number else names
        axes.set_yticks(range(len(names)), labels=labels)
        style(axes, xlabel=label)
    legend(
        axes,
        axes.lines,
        loc="center left",
        bbox_to_anchor=(1.03, 0.5),
    )
    figure.text(
        0.17,
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
