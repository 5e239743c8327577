"""A comparison of decoders: score over forward passes, as a PNG and as the SVG of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from creditdecoding.plots.base import (
    DASHED,
    is_grey,
    line_styles,
    log_axis,
    new_figure,
    save,
    style,
)
from creditdecoding.plots.label_places import CurveName, place_names
from creditdecoding.viewer.colours import LINE, QUIET
from creditdecoding.viewer.labels import name_label

Report = Mapping[str, Any]
_NEAR = 5.0
"""Points below standard decoding that the second panel shows."""


@dataclass(frozen=True)
class TradeoffPanel:
    """A view of the curves: the settings it must show, and the least margin around their scores."""

    title: str
    tests: Sequence[Mapping[str, Any]]
    margin: float


def tradeoff_png(report: Report, path: Path) -> None:
    """Draw the curves of a comparison. Raises `MissingExtraError`."""
    save(tradeoff_figure(report), path)


def tradeoff_figure(report: Report) -> Any:
    """All settings, and next to them those near standard decoding; names at the curves.

    Chosen settings are ringed; those in colour carry the interval of their difference to standard
    decoding. The gid of a curve is `P-C`, of its points `P-C-N`, with the numbers of panel, curve
    and point.
    """
    panels = _panels(report)
    figure = new_figure(13.5 if len(panels) > 1 else 8.5, 5.4)
    width = 0.93 / len(panels)
    lines = _lines(report)
    unnamed = {name_label(curve["name"]) for curve in report["curves"]}
    for number, panel in enumerate(panels):
        left = 0.05 + number * (width + 0.01)
        axes = figure.add_axes((left, 0.2, width - 0.05, 0.71))
        _draw_panel(axes, report, panel, lines, number)
        unnamed &= set(place_names(axes, _names(report, lines)))
        style(
            axes,
            title=panel.title,
            xlabel="forward passes a request",
            ylabel="" if number else "score on test, %",
        )
    if unnamed:
        names = ", ".join(sorted(unnamed))
        note = f"Grey lines without a name: {names}."
        figure.text(0.05, 0.04, "\n".join(wrap(note, 190)), fontsize=8, color=QUIET)
    return figure


def _draw_panel(
    axes: Any,
    report: Report,
    panel: TradeoffPanel,
    lines: Sequence[Mapping[str, Any]],
    number: int,
) -> None:
    """Draw the level of standard decoding and all curves."""
    level = report["reference"]["test"]["score"]["value"]
    axes.axhline(
        level,
        color=LINE,
        linewidth=1,
        linestyle=DASHED,
        zorder=1,
    )
    for index, (curve, line) in enumerate(zip(report["curves"], lines)):
        gid = f"{number}-{index}"
        _draw_curve(axes, curve, line, gid)
        if curve["chosen"] is not None:
            _draw_chosen(axes, curve["chosen"]["test"], line, level, gid)
    _set_limits(axes, panel)


def _names(report: Report, lines: Sequence[Mapping[str, Any]]) -> list[CurveName]:
    """The name of each curve; those in colour must be written and come first."""
    names = []
    for curve, line in zip(report["curves"], lines):
        tests = [point["test"] for point in curve["points"]]
        name = CurveName(
            text=name_label(curve["name"]),
            colour=QUIET if is_grey(line) else line["color"],
            points=sorted((test["nfe"], test["score"]["value"]) for test in tests),
            is_required=not is_grey(line),
        )
        names.append(name)
    return sorted(names, key=lambda name: not name.is_required)


def _panels(report: Report) -> list[TradeoffPanel]:
    """One panel with all settings; a second where some, but not all, are near the reference."""
    standard = report["reference"]["test"]
    level = standard["score"]["value"]
    tests = []
    for curve in report["curves"]:
        tests += [point["test"] for point in curve["points"]]
    near = [test for test in tests if test["score"]["value"] >= level - _NEAR]
    panels = [TradeoffPanel("All settings", [*tests, standard], margin=4.0)]
    if 2 <= len(near) < len(tests):
        title = f"Within {_NEAR:g} points of standard decoding"
        panels.append(TradeoffPanel(title, [*near, standard], margin=0.5))
    return panels


def _lines(report: Report) -> list[dict[str, Any]]:
    """How to draw each curve: the best-known decoders bold and in colour, the others thin and
    grey.
    """
    names = [curve["name"] for curve in report["curves"]]
    lines = []
    for line in line_styles(names, only_known=True).values():
        grey = is_grey(line)
        weight = {
            "linewidth": 1.0 if grey else 2.2,
            "markersize": 2.5 if grey else 4,
            "zorder": 3 if grey else 4,
        }
        lines.append({**line, **weight})
    return lines


def _draw_curve(axes: Any, curve: Mapping[str, Any], line: Mapping[str, Any], gid: str) -> None:
    """Draw a line through the settings of a decoder, and a dot for each with a gid of its own."""
    points = []
    for setting in curve["points"]:
        test = setting["test"]
        points.append((test["nfe"], test["score"]["value"]))
    axes.plot(
        *zip(*sorted(points)),
        label=curve["name"],
        gid=gid,
        **line,
    )
    for number, (passes, score) in enumerate(points):
        axes.plot(
            passes,
            score,
            gid=f"{gid}-{number}",
            linestyle="",
            color=line["color"],
            marker="o",
            markersize=line["markersize"],
            zorder=5,
        )


def _draw_chosen(
    axes: Any, test: Mapping[str, Any], line: Mapping[str, Any], level: float, gid: str
) -> None:
    """Draw a ring around the chosen setting, and the interval of its difference to `level`."""
    passes = test["nfe"]
    difference = test["difference"]
    if not is_grey(line):
        axes.plot(
            (passes, passes),
            (level + difference["low"], level + difference["high"]),
            gid=f"{gid}-bar",
            color=line["color"],
            linewidth=1,
            alpha=0.6,
            zorder=2,
        )
    axes.plot(
        passes,
        test["score"]["value"],
        gid=f"{gid}-ring",
        linestyle="",
        color=line["color"],
        marker="o",
        markersize=7 if is_grey(line) else 10,
        fillstyle="none",
        zorder=5,
    )


def _set_limits(axes: Any, panel: TradeoffPanel) -> None:
    """Set both axes with room around all settings of the panel."""
    passes = [test["nfe"] for test in panel.tests]
    scores = [test["score"]["value"] for test in panel.tests]
    low = min(scores)
    high = max(scores)
    margin = max(panel.margin, 0.06 * (high - low))
    axes.set_ylim(low - margin, high + margin)
    log_axis(
        axes.xaxis,
        low=0.92 * min(passes),
        high=1.09 * max(passes),
        steps=(1, 2, 3, 5, 7),
    )
