"""The two figures of a trace analysis: when tokens were decided, and reliability diagrams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.plots.base import DASHED, label_ends, new_figure, save, style
from creditdecoding.viewer.colours import EXTRA, LINE, SERIES, TEXT, WRITTEN
from creditdecoding.viewer.labels import spec_label

_CANDIDATE = SERIES["credit"]
_COMMIT = SERIES["threshold"]
_ORACLE = EXTRA
_BANDS = (
    "#fbb96a",
    "#e07b39",
    "#8fb3bd",
    "#2a7fc9",
    "#1b4f80",
)
_FEW_BANDS = (
    "#fbb96a",
    "#e07b39",
    "#2a7fc9",
    "#1b4f80",
)
"""Colours of four bands or fewer."""

_WIDTH = 8.6
_HEIGHT = 2.3
_PANEL = 3.5
"""Inches: the steps figure's width, the height of its panels, the side of a reliability panel."""
_NAMES = 1.1
"""Inches right of a panel for the names of its lines."""

_NAMES_FROM = 62.0
"""Height of the lowest name beside a reliability panel: all its curves end near 100."""

_MIN_LOOKS = 10
"""Observations that a bin of a reliability curve needs."""

_SIDES = {
    "final": "first choice is final, %",
    "right": "first choice is right, %",
}

Report = Mapping[str, Any]
Band = Mapping[str, Any]


def steps_png(report: Report, path: Path) -> None:
    """Draw the mean pass at which tokens become candidates and are committed, a panel a decoder.

    Raises `MissingExtraError`.
    """
    records = report["decoders"]
    height = 0.35 + _HEIGHT * len(records)
    panel_height = _HEIGHT - 0.7
    figure = new_figure(_WIDTH, height)
    last = _last_position(report)
    for row, record in enumerate(records):
        bottom = height - (row + 1) * _HEIGHT
        box = (
            0.7 / _WIDTH,
            bottom / height,
            1 - (0.9 + _NAMES) / _WIDTH,
            panel_height / height,
        )
        axes = figure.add_axes(box)
        steps = report["steps"][record["decoder"]]
        _draw_steps(axes, steps, last)
        label_ends(axes, _step_ends(steps))
        is_lowest = record is records[-1]
        style(
            axes,
            title=spec_label(record["decoder"]),
            note=_note(record),
            xlabel="position in the answer" if is_lowest else "",
            ylabel="pass",
        )
    save(figure, path)


def _last_position(report: Report) -> int:
    """The last position of all decoders, so that their panels have one axis."""
    last = 0
    for steps in report["steps"].values():
        last = max([last, *steps["positions"]])
    return last


def _draw_steps(axes: Any, steps: Mapping[str, Sequence[Any]], last: int) -> None:
    """Draw one decoder: a line each for deciding, committing and the oracle, the wait shaded."""
    x = steps["positions"]
    candidate = steps["candidate"]
    commit = steps["commit"]
    axes.fill_between(x, candidate, commit, color=WRITTEN, linewidth=0)
    marker = "o" if len(x) == 1 else None
    axes.plot(
        x,
        commit,
        color=_COMMIT,
        linewidth=1.8,
        marker=marker,
    )
    axes.plot(
        x,
        candidate,
        color=_CANDIDATE,
        linewidth=1.8,
        marker=marker,
    )
    oracle = [math.nan if value is None else value for value in steps["oracle"]]
    if not all(map(math.isnan, oracle)):
        axes.plot(
            x,
            oracle,
            color=_ORACLE,
            linewidth=1.3,
            linestyle=(0, (2, 1.5)),
            marker=marker,
        )
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_ylim(0, 1.08 * max((*commit, 1.0)))
    axes.locator_params(integer=True)


def _step_ends(steps: Mapping[str, Sequence[Any]]) -> list[tuple[float, str, str]]:
    """Height, name and colour of each line of `_draw_steps` at its right end."""
    ends = [
        (steps["commit"][-1], "committed", _COMMIT),
        (steps["candidate"][-1], "decided", _CANDIDATE),
    ]
    oracle = [value for value in steps["oracle"] if value is not None]
    if oracle:
        ends.append((oracle[-1], "by the oracle", _ORACLE))
    return ends


def _note(record: Mapping[str, Any]) -> str:
    """The numbers of a decoder above its panel."""
    parts = [f"{record['nfe']:.1f} forward passes"]
    if record["over_oracle"] is not None:
        parts.append(f"{record['over_oracle']:.1f} x oracle")
    parts.append(f"{record['redundancy']:.2f} redundant passes a token")
    return "  ·  ".join(parts)


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
    width = 3 * _PANEL + 2 * _NAMES + 0.3
    height = _PANEL * len(sides) + 0.1
    figure = new_figure(width, height)
    for row, side in enumerate(sides):
        bottom = height - (row + 1) * _PANEL + 0.5
        ratio_axes, run_axes, gap_axes = _panel_row(figure, bottom)
        by_ratio = calibration[side]["by_ratio"]
        by_run = calibration[side]["by_run"]
        label = _SIDES[side]
        _draw_reliability(ratio_axes, by_ratio, "by mask ratio", label)
        _draw_reliability(run_axes, by_run, "by run length", label)
        _draw_gaps(gap_axes, by_ratio, f"{side} minus confidence, points")
    save(figure, path)


def _panel_row(figure: Any, bottom: float) -> list[Any]:
    """Add three square panels next to each other, `bottom` inches above the figure's edge."""
    width, height = figure.get_size_inches()
    size = _PANEL - 0.85
    panels = []
    for column in range(3):
        left = 0.65 + (_PANEL + _NAMES) * column
        box = (
            left / width,
            bottom / height,
            size / width,
            size / height,
        )
        panels.append(figure.add_axes(box))
    return panels


def _draw_reliability(axes: Any, bands: Sequence[Band], title: str, label: str) -> None:
    """Draw one curve a band; bins with few observations are left out where others remain."""
    axes.plot(
        (0, 100),
        (0, 100),
        color=LINE,
        linewidth=1,
        linestyle=DASHED,
    )
    colours = _BANDS if len(bands) > len(_FEW_BANDS) else _FEW_BANDS
    names: list[tuple[float, str, str]] = []
    for band, colour in zip(bands, colours):
        curve = band["curve"]
        bins = [point for point in curve if point["looks"] >= _MIN_LOOKS] or curve
        axes.plot(
            [100 * point["confidence"] for point in bins],
            [100 * point["frequency"] for point in bins],
            color=colour,
            linewidth=1.6,
            marker="o",
            markersize=3,
        )
        names.append((_NAMES_FROM + 8.0 * len(names), band["band"], colour))
    axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    label_ends(axes, names)
    style(axes, title=title, xlabel="confidence, %", ylabel=label)


def _draw_gaps(axes: Any, bands: Sequence[Band], label: str) -> None:
    """Draw frequency minus confidence as bars with intervals; above zero is underconfident."""
    columns = range(len(bands))
    gaps = [band["gap"] for band in bands]
    colours = [_CANDIDATE if gap >= 0 else _COMMIT for gap in gaps]
    axes.bar(columns, gaps, width=0.6, color=colours)
    for column, band in enumerate(bands):
        if band["interval"] is not None:
            ends = band["interval"]
            axes.plot((column, column), ends, color=TEXT, linewidth=1.2)
    axes.axhline(0, color=LINE, linewidth=1)
    names = [band["band"].replace("% to ", "-") for band in bands]
    axes.set_xticks(columns, labels=names)
    style(
        axes,
        title="gap",
        note="above 0: underconfident",
        xlabel="share of the block still masked",
        ylabel=label,
    )
