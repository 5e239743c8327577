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


def rl_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw held-out accuracy over answers drawn and over sequence-forwards.

    Lines are means over seeds, bands 95 % intervals; the dashed line is where the outcome arm ends.
    Raises `MissingExtraError`.
    """
    figure = new_figure(11, 4.4)
    styles = line_styles([arm["arm"] for arm in report["arms"]])
    for number, (measure, label) in enumerate(_COMPUTE.items()):
        axes = figure.add_axes((0.07 + 0.49 * number, 0.22, 0.4, 0.66))
        for arm in report["arms"]:
            percent = [
                {end: 100 * value for end, value in point.items()} for point in arm["accuracy"]
            ]
            color = styles[arm["arm"]]["color"]
            band(axes, arm[measure], percent, color=color, linewidth=1.8, label=arm["arm"])
        if report["level"] is not None:
            axes.axhline(100 * report["level"], color=QUIET, linewidth=1, linestyle=(0, (3, 3)))
        style(axes, "" if number else "Held-out problems answered right, %", xlabel=label)
    legend(figure, axes.lines[: len(report["arms"])], loc="lower center", ncols=4)
    save(figure, path)
