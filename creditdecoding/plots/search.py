"""A comparison of searches: accuracy against compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import (
    DASHED,
    band,
    is_grey,
    label_ends,
    line_styles,
    log_around,
    new_figure,
    save,
    style,
)
from creditdecoding.viewer.colours import QUIET
from creditdecoding.viewer.labels import name_label

_COMPUTE = {
    "sequences": "sequence-forwards a problem, the verifier's included",
    "tokens": "tokens kept a problem",
    "seconds": "seconds a problem",
}
_PROCESS = " (--verifier)"
"""Ends the name of a method that the verifier of steps judges in place of the one of outcomes."""
_JUDGED = ("best_of_n", "weighted")
_METHODS = {
    "beam": "beam over steps",
    "best_of_n": "best of N",
    "majority": "majority vote",
    "weighted": "weighted vote",
    "certainty": "most certain answer",
    "certainty_mean": "most certain answer, by mean",
}


def search_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw a panel for each measure of compute, a line with its 95 % band for each method.

    Step-by-step methods are bold. Raises `MissingExtraError`.
    """
    curves = report["curves"]
    step_by_step = {record["method"] for record in report["against"]}
    figure = new_figure(14.5, 4.6)
    for number, (measure, label) in enumerate(_COMPUTE.items()):
        axes = figure.add_axes((0.045 + 0.275 * number, 0.13, 0.25, 0.81))
        for curve, line in zip(curves, _lines(curves)):
            is_bold = curve["method"] in step_by_step
            band(
                axes,
                [max(point[measure], 1e-6) for point in curve["points"]],
                [point["score"] for point in curve["points"]],
                alpha=0.0 if is_grey(line) else 0.1,
                linewidth=2.4 if is_bold else 1.4,
                marker="o",
                markersize=4,
                **line,
            )
        xs = [point[measure] for curve in curves for point in curve["points"]]
        log_around(axes.xaxis, xs)
        ylabel = "" if number else "right, %"
        style(axes, xlabel=label, ylabel=ylabel)
    label_ends(axes, _ends(curves))
    save(figure, path)


def _lines(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Colour and dashes of each curve; one that is judged by another verifier is dashed."""
    methods = [curve["method"] for curve in curves]
    colours = line_styles([method.partition(" (")[0] for method in dict.fromkeys(methods)])
    lines = []
    for method in methods:
        base = colours[method.partition(" (")[0]]
        dash = DASHED if method.endswith(_PROCESS) else "-"
        lines.append({"color": base["color"], "linestyle": dash})
    return lines


def _ends(curves: Sequence[Mapping[str, Any]]) -> list[tuple[float, str, str]]:
    """The name of each curve at the height of its last point."""
    ends = []
    for curve, line in zip(curves, _lines(curves)):
        colour = QUIET if is_grey(line) else line["color"]
        last = curve["points"][-1]["score"]["value"]
        ends.append((last, method_label(curve["method"]), colour))
    return ends


def method_label(method: str) -> str:
    """A search method in words."""
    name = method.removesuffix(_PROCESS)
    words = _METHODS.get(name, name_label(name))
    if name not in _JUDGED:
        return words
    return f"{words}, {'process' if method.endswith(_PROCESS) else 'outcome'} verifier"
