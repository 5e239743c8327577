"""A comparison of searches: accuracy against compute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import band, legend, line_styles, new_figure, save, style

_COMPUTE = {
    "sequences": "sequence-forwards a problem, the verifier's included",
    "tokens": "tokens kept a problem",
    "seconds": "seconds a problem",
}


def search_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw a panel for each measure of compute, a line with its 95 % band for each method.

    Step-by-step methods are bold. Raises `MissingExtraError`.
    """
    curves = report["curves"]
    step_by_step = {record["method"] for record in report["against"]}
    styles = line_styles([curve["method"] for curve in curves])
    figure = new_figure(14.5, 5)
    for number, (measure, label) in enumerate(_COMPUTE.items()):
        axes = figure.add_axes((0.045 + 0.275 * number, 0.13, 0.25, 0.81))
        for curve in curves:
            method = curve["method"]
            points = curve["points"]
            is_bold = method in step_by_step
            band(
                axes,
                [max(point[measure], 1e-6) for point in points],
                [point["score"] for point in points],
                alpha=0.13 if is_bold else 0.06,
                linewidth=2.4 if is_bold else 1.2,
                marker="o",
                markersize=4,
                label=method,
                **styles[method],
            )
        axes.set_xscale("log")
        ylabel = "" if number else "right, %"
        style(axes, xlabel=label, ylabel=ylabel)
    legend(
        figure,
        axes.lines,
        loc="center left",
        bbox_to_anchor=(0.865, 0.5),
        fontsize=8,
    )
    save(figure, path)
