"""Learning curves of policy-gradient runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import band, legend, line_styles, new_figure, save, style
from creditdecoding.viewer.colours import QUIET

_COMPUTE = {
    "samples": "answers drawn",
    "sequences": "sequence-forwards of the policy and the verifier",
}

Arm = Mapping[str, Any]


def rl_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw held-out accuracy over answers drawn and over sequence-forwards.

    Lines are means over seeds, bands 95 % intervals; the dashed line is where the outcome arm ends.
    Raises `MissingExtraError`.
    """
    arms = report["arms"]
    level = report["level"]
    figure = new_figure(11, 4.4)
    styles = line_styles([arm["arm"] for arm in arms])
    for number, (measure, label) in enumerate(_COMPUTE.items()):
        axes = figure.add_axes((0.07 + 0.49 * number, 0.22, 0.4, 0.66))
        for arm in arms:
            colour = styles[arm["arm"]]["color"]
            _draw_arm(axes, arm, measure, colour)
        if level is not None:
            axes.axhline(
                100 * level,
                color=QUIET,
                linewidth=1,
                linestyle=(0, (3, 3)),
            )
        title = "" if number else "Held-out problems answered right, %"
        style(axes, title, xlabel=label)
    handles = axes.lines[: len(arms)]
    legend(figure, handles, loc="lower center", ncols=4)
    save(figure, path)


def _draw_arm(axes: Any, arm: Arm, measure: str, colour: str) -> None:
    """Draw the accuracy of one arm in percent over a measure of compute."""
    percentages = []
    for point in arm["accuracy"]:
        percentages.append({name: 100 * value for name, value in point.items()})
    band(
        axes,
        arm[measure],
        percentages,
        color=colour,
        linewidth=1.8,
        label=arm["arm"],
    )
