"""The figure of a comparison of searches: accuracy against compute, drawn on a figure that is
handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.plots.tradeoff import strokes
from creditdecoding.viewer.colours import LINE, QUIET, TEXT, WRITTEN

_PANELS = {
    "sequences": "sequence-forwards a problem, the verifier's among them",
    "tokens": "tokens kept a problem",
    "seconds": "seconds a problem",
}


def draw_search(figure: Any, report: Mapping[str, Any]) -> None:
    """A panel a measure of compute, a line with its band of 95% a method; methods that go step by
    step are bold.
    """
    bold = {each["method"] for each in report["against"]}
    looks = strokes([curve["method"] for curve in report["curves"]])
    for number, (measure, title) in enumerate(_PANELS.items()):
        axes = figure.add_axes((0.045 + 0.275 * number, 0.13, 0.25, 0.81))
        for curve in report["curves"]:
            colour, dash = looks[curve["method"]]
            x = [max(point[measure], 1e-6) for point in curve["points"]]
            y, low, high = (
                [point["score"][end] for point in curve["points"]]
                for end in ("value", "low", "high")
            )
            line = (0, tuple(map(int, dash.split()))) if dash else "-"
            heavy = curve["method"] in bold
            axes.plot(
                x,
                y,
                marker="o",
                markersize=4,
                color=colour,
                linestyle=line,
                linewidth=2.4 if heavy else 1.2,
                label=curve["method"],
            )
            axes.fill_between(
                x, low, high, color=colour, alpha=0.13 if heavy else 0.06, linewidth=0
            )
        axes.set_xscale("log")
        axes.set_xlabel(title, color=QUIET, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.tick_params(which="both", colors=QUIET, labelsize=8, length=0)
        axes.grid(color=WRITTEN, linewidth=1)
        axes.set_axisbelow(True)
        if number == 0:
            axes.set_ylabel("right, %", color=QUIET, fontsize=9)
            handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="center left",
        bbox_to_anchor=(0.865, 0.5),
        frameon=False,
        fontsize=8,
        labelcolor=TEXT,
    )
