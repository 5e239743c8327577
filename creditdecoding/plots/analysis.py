"""The two figures of a trace analysis: when tokens were decided, and reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.plots.base import DASHED, legend, new_figure, save, style
from creditdecoding.viewer.colours import LINE, QUIET, TEXT, WRITTEN

_CANDIDATE = "#2a7fc9"
_COMMIT = "#d9680b"
_ORACLE = "#6f2b72"
_BANDS = ("#fbb96a", "#e07b39", "#8fb3bd", "#2a7fc9", "#1b4f80")
_WIDTH, _HEIGHT, _PANEL = 8.6, 2.3, 3.5
_SIDES = {"final": "first choice is final, %", "right": "first choice is right, %"}

Report = Mapping[str, Any]


def steps_png(report: Report, path: Path) -> None:
    """Draw the mean pass at which tokens become candidates and are committed, a panel a decoder.

    Raises `MissingExtraError`.
    """
    records = report["decoders"]
    height = 0.55 + _HEIGHT * len(records)
    figure = new_figure(_WIDTH, height)
    positions = [place for steps in report["steps"].values() for place in steps["positions"]]
    last = max(positions, default=0)
    for row, record in enumerate(records):
        bottom = height - (row + 1) * _HEIGHT
        box = (0.7 / _WIDTH, bottom / height, 1 - 1.0 / _WIDTH, (_HEIGHT - 0.7) / height)
        axes = figure.add_axes(box)
        _draw_steps(axes, report["steps"][record["decoder"]], last)
        xlabel = "position in the answer" if record is records[-1] else ""
        style(axes, record["decoder"], _note(record), xlabel, "pass")
    top = (0.7 / _WIDTH, 1 - 0.08 / height)
    handles = figure.axes[0].get_legend_handles_labels()[0]
    place = {"loc": "upper left", "bbox_to_anchor": top, "borderaxespad": 0}
    legend(figure, handles, ncols=4, labelcolor=QUIET, **place)
    save(figure, path)


def _draw_steps(axes: Any, steps: Mapping[str, Sequence[Any]], last: int) -> None:
    x, candidate, commit = steps["positions"], steps["candidate"], steps["commit"]
    axes.fill_between(
        x, candidate, commit, color=WRITTEN, linewidth=0, label="decided, predicted again"
    )
    marker = "o" if len(x) == 1 else None
    axes.plot(x, commit, color=_COMMIT, linewidth=1.8, marker=marker, label="committed")
    axes.plot(x, candidate, color=_CANDIDATE, linewidth=1.8, marker=marker, label="decided")
    oracle = [math.nan if value is None else value for value in steps["oracle"]]
    if not all(map(math.isnan, oracle)):
        line = {"color": _ORACLE, "linewidth": 1.3, "linestyle": (0, (2, 1.5))}
        axes.plot(x, oracle, marker=marker, label="committed by the oracle", **line)
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_ylim(0, 1.08 * max((*commit, 1.0)))
    axes.locator_params(integer=True)


def _note(record: Mapping[str, Any]) -> str:
    parts = [f"NFE {record['nfe']:.1f}"]
    if record["over_oracle"] is not None:
        parts.append(f"{record['over_oracle']:.1f} x oracle")
    return "  ·  ".join([*parts, f"{record['redundancy']:.2f} redundant passes a token"])


def reliability_png(report: Report, path: Path) -> None:
    """Draw frequency against confidence by mask ratio and by run length, and the gap by mask ratio.

    One row for "final", one for "right" where reference answers are known. Raises `OptionError`
    without standard decoding, and `MissingExtraError`.
    """
    calibration = report["calibration"]
    if calibration is None:
        raise OptionError(
            "there is no reliability without standard decoding",
            hint="Add traces of --decoder fixed.",
        )
    sides = [side for side in _SIDES if calibration[side]["all"]["looks"]]
    width = 3 * _PANEL + 0.3
    height = _PANEL * len(sides) + 0.1
    figure = new_figure(width, height)
    for row, side in enumerate(sides):
        bottom = height - (row + 1) * _PANEL + 0.5
        size = _PANEL - 0.85
        ratio, run, gap = (
            figure.add_axes(
                ((0.65 + _PANEL * column) / width, bottom / height, size / width, size / height)
            )
            for column in range(3)
        )
        by_ratio = calibration[side]["by_ratio"]
        _draw_reliability(ratio, by_ratio, "by mask ratio", _SIDES[side])
        _draw_reliability(run, calibration[side]["by_run"], "by run length", _SIDES[side])
        _draw_gaps(gap, by_ratio, f"{side} minus confidence, points")
    save(figure, path)


def _draw_reliability(
    axes: Any, bands: Sequence[Mapping[str, Any]], title: str, label: str
) -> None:
    """One curve a band; bins with fewer than ten observations are left out where others remain."""
    axes.plot((0, 100), (0, 100), color=LINE, linewidth=1, linestyle=DASHED)
    colours = _BANDS if len(bands) > 4 else _BANDS[:2] + _BANDS[3:]
    for band, colour in zip(bands, colours):
        bins = [point for point in band["curve"] if point["looks"] >= 10] or band["curve"]
        x = [100 * point["confidence"] for point in bins]
        y = [100 * point["frequency"] for point in bins]
        axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3, label=band["band"])
    axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    place = {"loc": "lower right", "handlelength": 1.4, "borderaxespad": 0.2}
    legend(axes, axes.lines[1:], fontsize=8, **place)
    style(axes, title, "", "confidence, %", label)


def _draw_gaps(axes: Any, bands: Sequence[Mapping[str, Any]], label: str) -> None:
    """Frequency minus confidence with its interval; above zero the model is underconfident."""
    gaps = [band["gap"] for band in bands]
    colours = [_CANDIDATE if gap >= 0 else _COMMIT for gap in gaps]
    axes.bar(range(len(bands)), gaps, width=0.6, color=colours)
    for column, band in enumerate(bands):
        if band["interval"] is not None:
            axes.plot((column, column), band["interval"], color=TEXT, linewidth=1.2)
    axes.axhline(0, color=LINE, linewidth=1)
    names = [band["band"].replace("% to ", "-") for band in bands]
    axes.set_xticks(range(len(bands)), labels=names)
    style(axes, "gap", "above 0: underconfident", "share of the block still masked", label)
