"""The figure of policy-gradient runs, drawn on a figure that is handed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.plots.tradeoff import strokes
from creditdecoding.viewer.colours import LINE, QUIET, TEXT


def draw_rl(figure: Any, report: Mapping[str, Any]) -> None:
    """Held-out accuracy over answers drawn (left) and over sequence-forwards (right): means over
    seeds, 95% bands, where the outcome arm ends.
    """
    left, right = (figure.add_axes((start, 0.22, 0.4, 0.66)) for start in (0.07, 0.56))
    looks = strokes([each["arm"] for each in report["arms"]])
    for axes, over, label in (
        (left, "samples", "answers drawn"),
        (right, "sequences", "sequence-forwards of the policy and the verifier"),
    ):
        for each in report["arms"]:
            colour, at = looks[each["arm"]][0], each[over]
            low, value, high = (
                [100 * point[name] for point in each["accuracy"]]
                for name in ("low", "value", "high")
            )
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(at, value, color=colour, linewidth=1.8, label=each["arm"])
        if report["level"] is not None:
            axes.axhline(100 * report["level"], color=QUIET, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_xlabel(label, fontsize=9, color=TEXT)
    left.set_title("Held-out problems answered right, %", loc="left", fontsize=10, color=TEXT)
    for axes in (left, right):
        axes.tick_params(colors=TEXT, labelsize=8)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=TEXT,
    )
