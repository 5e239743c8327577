"""The figure of policy-gradient runs, drawn on a figure that is handed in.

Leaves to others: the numbers (verifier/arms.py), making and saving the figure (plot.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.view.colour import LINE, QUIET, TEXT
from creditdecoding.view.tradeoff import strokes


def draw_rl(figure: Any, report: Mapping[str, Any]) -> None:
    """Held-out accuracy (left) and passes an answer (right) over samples: means over seeds, 95% bands, the level where the outcome arm ends."""
    left, right = (figure.add_axes((start, 0.22, 0.4, 0.66)) for start in (0.07, 0.56))
    looks = strokes([each["arm"] for each in report["arms"]])
    for each in report["arms"]:
        colour, samples = looks[each["arm"]][0], each["samples"]
        low, value, high = ([100 * point[name] for point in each["accuracy"]] for name in ("low", "value", "high"))
        left.fill_between(samples, low, high, color=colour, alpha=0.15, linewidth=0)
        left.plot(samples, value, color=colour, linewidth=1.8, label=each["arm"])
        right.plot(samples, each["passes"], color=colour, linewidth=1.8)
    if report["level"] is not None:
        left.axhline(100 * report["level"], color=QUIET, linewidth=1, linestyle=(0, (3, 3)))
    for axes, title in ((left, "Held-out problems answered right, %"), (right, "Forward passes an answer")):
        axes.set_title(title, loc="left", fontsize=10, color=TEXT)
        axes.set_xlabel("answers drawn", fontsize=9, color=TEXT)
        axes.tick_params(colors=TEXT, labelsize=8)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False, fontsize=9, labelcolor=TEXT)
