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
    figure = new_figure(14.5, 5)
    step_by_step = {record["method"] for record in report["against"]}
    styles = line_styles([curve["method"] for curve in report["curves"]])
    for number, (measure, label) in enumerate(_COMPUTE.items()):
        axes = figure.add_axes((0.045 + 0.275 * number, 0.13, 0.25, 0.81))
        for curve in report["curves"]:
            bold = curve["method"] in step_by_step
            band(
                axes,
                [max(point[measure], 1e-6) for point in curve["points"]],
                [point["score"] for point in curve["points"]],
                alpha=0.13 if bold else 0.06,
                linewidth=2.4 if bold else 1.2,
                marker="o",
                markersize=4,
                label=curve["method"],
                **styles[curve["method"]],
            )
        axes.set_xscale("log")
        style(axes, xlabel=label, ylabel="" if number else "right, %")
    legend(figure, axes.lines, loc="center left", bbox_to_anchor=(0.865, 0.5), fontsize=8)
    save(figure, path)
