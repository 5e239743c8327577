"""A comparison of decoders: score over forward passes, as a PNG and as the SVG of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    for number, (title, (tests, margin)) in enumerate(panels.items()):
        axes = figure.add_axes((0.06 + number * (width + 0.02), 0.12, width - 0.03, 0.76))
        axes.axhline(level, color=LINE, linewidth=1, linestyle=DASHED, zorder=1)
        for index, (curve, line) in enumerate(zip(report["curves"], _lines(report))):
            _draw_curve(axes, curve, line, level, f"{number}-{index}")
        _set_limits(axes, tests, margin)
        ylabel = "" if number else "score on test, %"
        style(axes, title, "", "forward passes a request", ylabel)
    handles = axes.get_legend_handles_labels()[0]
    legend(figure, handles, loc="center left", bbox_to_anchor=(0.845, 0.5))
    return figure


def _panels(report: Report) -> dict[str, tuple[list[Mapping[str, Any]], float]]:
    """The settings that each panel must show, and the least margin around their scores."""
    standard = report["reference"]["test"]
    points = [point["test"] for curve in report["curves"] for point in curve["points"]]
    level = standard["score"]["value"]
    near = [test for test in points if test["score"]["value"] >= level - _NEAR]
    panels = {"All settings": ([*points, standard], 4.0)}
    if 2 <= len(near) < len(points):
        panels[f"Within {_NEAR:g} points of standard decoding"] = ([*near, standard], 0.5)
    return panels


def _lines(report: Report) -> list[dict[str, Any]]:
    """How to draw each curve."""
    styles = line_styles([curve["name"] for curve in report["curves"]])
    bold = {"linewidth": 2.4, "markersize": 4, "zorder": 4}
    thin = {"linewidth": 1.2, "markersize": 3, "zorder": 3}
    return [{**line, **(bold if name in HEADLINERS else thin)} for name, line in styles.items()]


def _draw_curve(
    axes: Any, curve: Mapping[str, Any], line: dict[str, Any], level: float, gid: str
) -> None:
    points = [(point["test"]["nfe"], point["test"]["score"]["value"]) for point in curve["points"]]
    axes.plot(*zip(*sorted(points)), label=curve["name"], gid=gid, **line)
    mark = {"color": line["color"], "marker": "o", "markersize": line["markersize"], "zorder": 5}
    for number, point in enumerate(points):
        axes.plot(*point, gid=f"{gid}-{number}", linestyle="", **mark)
    if curve["chosen"] is not None:
        test = curve["chosen"]["test"]
        difference = test["difference"]
        passes = test["nfe"]
        ends = (level + difference["low"], level + difference["high"])
        bar = {"color": line["color"], "linewidth": 1, "alpha": 0.55, "zorder": 2}
        axes.plot((passes, passes), ends, gid=f"{gid}-bar", **bar)
        ring = {**mark, "markersize": 10, "fillstyle": "none"}
        axes.plot(passes, test["score"]["value"], gid=f"{gid}-ring", linestyle="", **ring)


def _set_limits(axes: Any, tests: Sequence[Mapping[str, Any]], margin: float) -> None:
    """Room around all settings, at least `margin` points of score."""
    passes = [test["nfe"] for test in tests]
    scores = [test["score"]["value"] for test in tests]
    low, high = min(scores), max(scores)
    margin = max(margin, 0.06 * (high - low))
    axes.set_ylim(low - margin, high + margin)
    log_axis(axes.xaxis, 0.92 * min(passes), 1.09 * max(passes), (1, 2, 3, 5, 7))
