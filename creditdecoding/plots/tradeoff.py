"""A comparison of decoders: score over forward passes, as a PNG and as the SVG of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.plots.base import (
    DASHED,
    HEADLINERS,
    legend,
    line_styles,
    log_axis,
    new_figure,
    save,
    style,
)
from creditdecoding.viewer.colours import LINE

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
    """All settings, and next to them those near standard decoding; names on the right.

    Chosen settings are ringed and carry the interval of their difference to standard decoding. The
    gid of a curve is `P-C`, of its points `P-C-N`, with the numbers of panel, curve and point.
    """
    panels = _panels(report)
    figure = new_figure(13.5 if len(panels) > 1 else 8.5, 5)
    width = 0.78 / len(panels)
    level = report["reference"]["test"]["score"]["value"]
    lines = _lines(report)
    for number, panel in enumerate(panels):
        left = 0.06 + number * (width + 0.02)
        axes = figure.add_axes((left, 0.12, width - 0.03, 0.76))
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
        style(
            axes,
            title=panel.title,
            xlabel="forward passes a request",
            ylabel="" if number else "score on test, %",
        )
    handles, _ = axes.get_legend_handles_labels()
    legend(figure, handles, loc="center left", bbox_to_anchor=(0.845, 0.5))
    return figure


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
    """How to draw each curve: the best-known decoders bold, the others thin."""
    bold = {
        "linewidth": 2.4,
        "markersize": 4,
        "zorder": 4,
    }
    thin = {
        "linewidth": 1.2,
        "markersize": 3,
        "zorder": 3,
    }
    lines = []
    names = [curve["name"] for curve in report["curves"]]
    for name, line in line_styles(names).items():
        weight = bold if name in HEADLINERS else thin
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
    ends = (level + difference["low"], level + difference["high"])
    axes.plot(
        (passes, passes),
        ends,
        gid=f"{gid}-bar",
        color=line["color"],
        linewidth=1,
        alpha=0.55,
        zorder=2,
    )
    axes.plot(
        passes,
        test["score"]["value"],
        gid=f"{gid}-ring",
        linestyle="",
        color=line["color"],
        marker="o",
        markersize=10,
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
