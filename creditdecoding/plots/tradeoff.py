"""The curves of a comparison, score over passes: what is drawn, for page and PNG alike, and drawing
it on a figure that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from creditdecoding.viewer.colours import LINE, QUIET, TEXT, WRITTEN

_OWN = {"credit": "#2a7fc9", "threshold": "#d9680b", "fixed": "#7b8794"}
_COLOURS = (
    "#3f9a5f",
    "#a63fa2",
    "#c9403a",
    "#9a7b1d",
    "#14989c",
    "#d8579a",
    "#6a6ed6",
    "#7ba12c",
    "#a9633c",
    "#4b8fb8",
    "#8d5bd0",
    "#5f8f3e",
)
_DASHES = ("", "7 4", "2 4", "9 4 2 4")


@dataclass(frozen=True)
class Dot:
    """One setting on the test split; `low` and `high`: standard decoding's score plus the interval
    of the difference to it.
    """

    passes: float
    score: float
    low: float
    high: float
    value: str
    chosen: bool


@dataclass(frozen=True)
class Series:
    """One curve in the order of its passes."""

    name: str
    colour: str
    dash: str
    bold: bool
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Window:
    """What a panel shows: passes (on a logarithmic axis) and scores."""

    passes: tuple[float, float]
    scores: tuple[float, float]

    def across(self, passes: float) -> float:
        """0 at the left edge, 1 at the right one."""
        first, last = map(math.log, self.passes)
        return (math.log(passes) - first) / (last - first)

    def up(self, score: float) -> float:
        """0 at the lower edge, 1 at the upper one."""
        return (score - self.scores[0]) / (self.scores[1] - self.scores[0])

    @property
    def passes_ticks(self) -> list[float]:
        """Round numbers of passes inside."""
        steps = [n * 10.0**e for e in range(-1, 5) for n in (1, 2, 3, 5, 7)]
        return [step for step in steps if self.passes[0] <= step <= self.passes[1]]

    @property
    def score_ticks(self) -> list[float]:
        """Round scores inside, four to nine of them."""
        low, high = self.scores
        step = next(n for n in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if (high - low) / n <= 9)
        return [
            round(n * step, 6) for n in range(math.ceil(low / step), math.floor(high / step) + 1)
        ]


def strokes(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each curve; credit, threshold and fixed have colours of their own."""
    found = {name: (_OWN[name], "") for name in names if name in _OWN}
    for used, name in enumerate(name for name in names if name not in _OWN):
        found[name] = (
            _COLOURS[used % len(_COLOURS)],
            _DASHES[1 + used // len(_COLOURS) % 3] if used >= len(_COLOURS) else "",
        )
    return {name: found[name] for name in names}


def series(report: Mapping[str, Any]) -> list[Series]:
    """The curves."""
    found, looks = [], strokes([curve["name"] for curve in report["curves"]])
    for curve in report["curves"]:
        name, chosen = curve["name"], curve["chosen"]
        colour, dash = looks[name]
        level = report["reference"]["test"]["score"]["value"]
        dots = [
            _dot(point, level, chosen is not None and point["decoder"] == chosen["decoder"])
            for point in curve["points"]
        ]
        found.append(
            Series(
                name, colour, dash, name in _OWN, tuple(sorted(dots, key=lambda dot: dot.passes))
            )
        )
    return found


def _dot(point: Mapping[str, Any], level: float, chosen: bool) -> Dot:
    test, gain = point["test"], point["test"]["difference"]
    return Dot(
        test["nfe"],
        test["score"]["value"],
        level + gain["low"],
        level + gain["high"],
        point["value"],
        chosen,
    )


def windows(report: Mapping[str, Any], found: Sequence[Series]) -> list[tuple[str, Window]]:
    """Panels by title: all settings, and those that come near to standard decoding."""
    standard = report["reference"]["test"]
    top = standard["score"]["value"]
    dots = [dot for each in found for dot in each.dots]
    whole = _window([*((d.passes, d.score) for d in dots), (standard["nfe"], top)], 4.0)
    near = [(d.passes, d.score) for d in dots if d.score >= top - 5]
    if len(near) < 2 or len(near) == len(dots):
        return [("All settings", whole)]
    return [
        ("All settings", whole),
        ("Within 5 points of standard decoding", _window([*near, (standard["nfe"], top)], 0.5)),
    ]


def _window(places: Sequence[tuple[float, float]], least: float) -> Window:
    """Room around all places, in scores at least `least` points of it."""
    passes, scores = zip(*places)
    margin = max(least, 0.06 * (max(scores) - min(scores)))
    return Window(
        (0.92 * min(passes), 1.09 * max(passes)), (min(scores) - margin, max(scores) + margin)
    )


def draw_tradeoff(figure: Any, report: Mapping[str, Any]) -> None:
    """Panels side by side, names on the right; operating points are ringed and carry the interval
    of their difference to standard decoding.
    """
    found = series(report)
    panels = windows(report, found)
    wide = 0.78 / len(panels)
    for number, (title, window) in enumerate(panels):
        axes = figure.add_axes((0.06 + number * (wide + 0.02), 0.12, wide - 0.03, 0.76))
        _draw_panel(axes, report, found, window)
        axes.set_title(title, loc="left", fontsize=11, weight="bold", color=TEXT)
        if not number:
            axes.set_ylabel("score on test, %", color=QUIET, fontsize=9)
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(
                handles,
                labels,
                loc="center left",
                bbox_to_anchor=(0.845, 0.5),
                frameon=False,
                fontsize=9,
                labelcolor=TEXT,
            )


def _draw_panel(
    axes: Any, report: Mapping[str, Any], found: Sequence[Series], window: Window
) -> None:
    standard = report["reference"]["test"]
    axes.axhline(
        standard["score"]["value"], color=LINE, linewidth=1, linestyle=(0, (4, 3)), zorder=1
    )
    for each in found:
        x, y = [dot.passes for dot in each.dots], [dot.score for dot in each.dots]
        style = {
            "color": each.colour,
            "linewidth": 2.4 if each.bold else 1.2,
            "zorder": 4 if each.bold else 3,
        }
        line = (0, tuple(map(int, each.dash.split()))) if each.dash else "-"
        axes.plot(
            x,
            y,
            marker="o",
            markersize=4 if each.bold else 3,
            linestyle=line,
            label=each.name,
            **style,
        )
        for dot in each.dots:
            if dot.chosen:
                axes.plot(
                    [dot.passes] * 2,
                    [dot.low, dot.high],
                    color=each.colour,
                    linewidth=1,
                    alpha=0.55,
                    zorder=2,
                )
                axes.plot(
                    [dot.passes],
                    [dot.score],
                    marker="o",
                    markersize=10,
                    fillstyle="none",
                    color=each.colour,
                    zorder=5,
                )
    axes.set_xscale("log")
    axes.set(xlim=window.passes, ylim=window.scores)
    axes.set_xticks(window.passes_ticks, labels=[f"{tick:g}" for tick in window.passes_ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("forward passes a request", color=QUIET, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.grid(color=WRITTEN, linewidth=1)
    axes.set_axisbelow(True)
