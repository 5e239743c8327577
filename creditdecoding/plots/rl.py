"""Learning curves of policy-gradient runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import band, label_ends, line_styles, new_figure, save, style
from creditdecoding.viewer.colours import QUIET
from creditdecoding.viewer.labels import name_label, spec_label

_COMPUTE = {
    "samples": "answers drawn",
    "sequences": "sequence-forwards of the policy and the verifier",
}

_ARMS = {
    "outcome": "outcome rewards",
    "effective": "process rewards",
    "q": "values as rewards",
}

Arm = Mapping[str, Any]


def rl_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw held-out accuracy over answers drawn and over sequence-forwards.

    Lines are means over seeds, bands 95 % intervals; the dashed line is where the outcome arm ends.
    Raises `MissingExtraError`.
    """
    arms = report["arms"]
    level = report["level"]
    figure = new_figure(12.4, 4.2)
    styles = line_styles([arm["arm"] for arm in arms])
    for number, (measure, label) in enumerate(_COMPUTE.items()):
        axes = figure.add_axes((0.06 + 0.42 * number, 0.13, 0.37, 0.76))
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
        note = "dashed: where outcome rewards end" if number and level is not None else ""
        style(axes, title, note, xlabel=label)
    ends = []
    for arm, label in zip(arms, _labels([arm["arm"] for arm in arms])):
        last = 100 * arm["accuracy"][-1]["value"]
        ends.append((last, label, styles[arm["arm"]]["color"]))
    label_ends(axes, ends)
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
    )


def _labels(specs: Sequence[str]) -> list[str]:
    """The arms in words, with their settings where a reward has several arms."""
    names = [spec.partition(":")[0] for spec in specs]
    labels = []
    for spec, name in zip(specs, names):
        words = _ARMS.get(name, name_label(name))
        is_unique = names.count(name) == 1
        labels.append(words if is_unique else spec_label(spec).replace(name, words, 1))
    return labels
