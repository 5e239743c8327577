"""The figures of a trace analysis, drawn on a figure that is handed in: candidate against commit,
and reliability diagrams.

Takes the JSON-ready report of eval/analysis.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from creditdecoding.viewer.colours import LINE, QUIET, TEXT, WRITTEN

_CANDIDATE, _COMMIT, _ORACLE = "#2a7fc9", "#d9680b", "#6f2b72"
_BANDS = ("#fbb96a", "#e07b39", "#8fb3bd", "#2a7fc9", "#1b4f80")
_WIDTH, _HEIGHT, _PANEL = 8.6, 2.3, 3.5
_SIDES = {"final": "first choice is final, %", "right": "first choice is right, %"}

Report = Mapping[str, Any]


def steps_size(report: Report) -> tuple[float, float]:
    """Inches of the figure that `draw_steps` fills."""
    return _WIDTH, 0.55 + _HEIGHT * len(report["decoders"])


def draw_steps(figure: Any, report: Report) -> None:
    """A panel a decoder: mean pass at which tokens become candidates and are committed, by
    position; between them the redundancy.
    """
    wide, high = figure.get_size_inches()
    panels = report["decoders"]
    last = max(
        (place for found in report["steps"].values() for place in found["positions"]), default=0
    )
    for row, record in enumerate(panels):
        bottom = high - 0.3 - (row + 1) * _HEIGHT
        axes = figure.add_axes(
            (0.7 / wide, (bottom + 0.3) / high, (wide - 1.0) / wide, (_HEIGHT - 0.7) / high)
        )
        _steps(axes, report["steps"][record["decoder"]], last)
        _frame(axes, record["decoder"], _steps_note(record), "pass")
        if row == len(panels) - 1:
            axes.set_xlabel("position in the answer", color=QUIET, fontsize=9)
    lines = panels and figure.axes[0].get_legend_handles_labels()
    figure.legend(
        *lines,
        loc="upper left",
        bbox_to_anchor=(0.7 / wide, 1 - 0.08 / high),
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=QUIET,
        borderaxespad=0,
    )


def _steps(axes: Any, found: Mapping[str, Sequence[Any]], last: int) -> None:
    places = found["positions"]
    axes.fill_between(
        places,
        found["candidate"],
        found["commit"],
        color=WRITTEN,
        linewidth=0,
        label="decided, asked again",
    )
    axes.plot(places, found["commit"], color=_COMMIT, linewidth=1.8, label="committed")
    axes.plot(
        places, found["candidate"], color=_CANDIDATE, linewidth=1.8, label="candidate for good"
    )
    told = [math.nan if value is None else value for value in found["oracle"]]
    if any(value is not None for value in found["oracle"]):
        axes.plot(
            places,
            told,
            color=_ORACLE,
            linewidth=1.3,
            linestyle=(0, (2, 1.5)),
            label="committed by the oracle",
        )
    if len(places) == 1:
        for line in axes.lines:
            line.set_marker("o")
    axes.set_xlim(-0.5, last + 0.5)
    axes.set_ylim(0, 1.08 * max((*found["commit"], 1.0)))
    axes.locator_params(integer=True)


def _steps_note(record: Mapping[str, Any]) -> str:
    parts = [f"NFE {record['nfe']:.1f}"]
    if record["over_oracle"] is not None:
        parts.append(f"{record['over_oracle']:.1f} x oracle")
    return "  ·  ".join([*parts, f"{record['redundancy']:.2f} passes redundant a token"])


def reliability_size(calibration: Report) -> tuple[float, float]:
    """Inches of the figure that `draw_reliability` fills."""
    return 3 * _PANEL + 0.3, _PANEL * len(_shown(calibration)) + 0.1


def draw_reliability(figure: Any, calibration: Report) -> None:
    """Frequency against confidence by mask ratio and by run length, and the gap by mask ratio; a
    row for final, one for right.
    """
    wide, high = figure.get_size_inches()
    for row, side in enumerate(_shown(calibration)):
        found = calibration[side]
        bottom = high - (row + 1) * _PANEL + 0.5
        boxes = [
            (
                (0.65 + _PANEL * column) / wide,
                bottom / high,
                (_PANEL - 0.85) / wide,
                (_PANEL - 0.85) / high,
            )
            for column in range(3)
        ]
        for box, key, title in zip(
            boxes, ("by_ratio", "by_run"), ("by mask ratio", "by run of the id")
        ):
            _reliability(figure.add_axes(box), found[key], title, _SIDES[side])
        _gaps(figure.add_axes(boxes[2]), found["by_ratio"], side)


def _shown(calibration: Report) -> list[str]:
    return [side for side in _SIDES if calibration[side]["all"]["looks"]]


def _reliability(axes: Any, bands: Sequence[Mapping[str, Any]], title: str, label: str) -> None:
    axes.plot((0, 100), (0, 100), color=LINE, linewidth=1, linestyle=(0, (4, 3)))
    colours = _BANDS if len(bands) > 4 else _BANDS[:2] + _BANDS[3:]
    for band, colour in zip(bands, colours):
        curve = [each for each in band["curve"] if each["looks"] >= 10] or band["curve"]
        x, y = ([100 * each[key] for each in curve] for key in ("confidence", "frequency"))
        axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3, label=band["band"])
    axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    axes.set_xlabel("confidence, %", color=QUIET, fontsize=9)
    axes.legend(
        frameon=False,
        fontsize=8,
        labelcolor=TEXT,
        loc="lower right",
        handlelength=1.4,
        borderaxespad=0.2,
    )
    _frame(axes, title, "", label)


def _gaps(axes: Any, bands: Sequence[Mapping[str, Any]], side: str) -> None:
    """Frequency minus confidence, with its interval: above the line the model is underconfident."""
    places = range(len(bands))
    values = [band["gap"] for band in bands]
    axes.bar(
        places, values, width=0.6, color=[_CANDIDATE if value >= 0 else _COMMIT for value in values]
    )
    for place, band in zip(places, bands):
        if band["interval"] is not None:
            axes.plot((place, place), band["interval"], color=TEXT, linewidth=1.2)
    axes.axhline(0, color=LINE, linewidth=1)
    axes.set_xticks(list(places), labels=[band["band"].replace("% to ", "-") for band in bands])
    axes.set_xlabel("share of the block still masked", color=QUIET, fontsize=9)
    _frame(axes, "gap", "above 0: underconfident", f"{side} less confidence, points")


def _frame(axes: Any, title: str, note: str, label: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, weight="bold", color=TEXT)
    axes.set_title(note, loc="right", fontsize=9, color=QUIET)
    axes.set_ylabel(label, color=QUIET, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.grid(axis="y", color=WRITTEN, linewidth=1)
    axes.set_axisbelow(True)
