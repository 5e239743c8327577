"""The curves of a training log, drawn on a figure that is handed in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from creditdecoding.viewer.colours import LINE, QUIET, TEXT, WRITTEN

_LOSSES = {
    "drill": "#b08900",
    "next_token": "#6f2b72",
    "blocks": "#4f9d69",
    "uniform": "#d9680b",
    "blockwise": "#2a7fc9",
    "ordered": "#8a8f98",
}
_MEAN = "#2a7fc9"


def scored(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """(step, family -> score in percent, "mean" among them) of every record with an evaluation."""
    return [(record["step"], _scores(record["eval"])) for record in records if record.get("eval")]


def draw_log(figure: Any, records: Sequence[Mapping[str, Any]]) -> None:
    """Losses, faint as logged and bold smoothed; beside them, if the log has any, the scores of its
    evaluations.
    """
    found = scored(records)
    scores = found if len(found) > 1 else []
    axes = figure.add_axes((0.07, 0.13, 0.41, 0.74) if scores else (0.11, 0.13, 0.85, 0.74))
    for name, colour in _LOSSES.items():
        points = [
            (record["step"], float(record[name]))
            for record in records
            if record.get(name) is not None
        ]
        if points:
            steps, values = zip(*points)
            smoothed = smooth(values)
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.22)
            axes.plot(
                steps,
                smoothed,
                color=colour,
                linewidth=2,
                label=f"{name.replace('_', ' ')}  {smoothed[-1]:.3f}",
            )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [n * 10.0**e for e in range(-4, 3) for n in (1, 2, 5) if low <= n * 10.0**e <= high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    if axes.lines:
        axes.legend(frameon=False, fontsize=9, labelcolor=TEXT)
    last = records[-1]
    _frame(axes, "Loss", f"{last['tokens'] / 1e6:.1f} M tokens in {last['seconds'] / 60:.0f} min")
    if scores:
        _draw_scores(figure.add_axes((0.55, 0.13, 0.32, 0.74)), scores)


def _draw_scores(axes: Any, scores: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Each family a thin line, their mean a bold one, names at the right ends pushed apart."""
    ends: list[tuple[float, str]] = []
    for name in scores[-1][1]:
        steps, values = zip(*((step, found[name]) for step, found in scores if name in found))
        style = (
            {"color": _MEAN, "linewidth": 2.4, "zorder": 3}
            if name == "mean"
            else {"color": LINE, "linewidth": 1}
        )
        axes.plot(steps, values, marker="o", markersize=4 if name == "mean" else 2, **style)
        ends.append((values[-1], name))
    axes.set_ylim(-3, 103)
    height = -math.inf
    for value, name in sorted(ends):
        height = max(value, height + 5.2)
        bold = {"color": _MEAN, "weight": "bold"} if name == "mean" else {"color": QUIET}
        axes.annotate(
            f"{name}  {value:.0f}",
            (1.02, height),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="center",
            annotation_clip=False,
            **bold,
        )
    _frame(axes, "Score, %", "held-out items")


def _scores(found: Mapping[str, Any]) -> dict[str, float]:
    """Mean and families of an evaluation, in percent, from either {"score", "families": {name:
    {"score"}}} or fractions {"mean", ...}.
    """
    plain = {
        name: value["score"] / 100 if isinstance(value, Mapping) else value
        for name, value in found.get("families", {}).items()
    }
    mean = found["mean"] if "mean" in found else found["score"] / 100
    return {name: 100.0 * value for name, value in (plain | {"mean": mean}).items()}


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential mean over about a fortieth of the log, unbiased at its start."""
    keep, total, weight, found = 1 - 1 / max(1.0, len(values) / 40), 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        found.append(total / weight)
    return found


def _frame(axes: Any, title: str, note: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, weight="bold", color=TEXT)
    axes.set_title(note, loc="right", fontsize=9, color=QUIET)
    axes.set_xlabel("step", color=QUIET, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.grid(axis="y", color=WRITTEN, linewidth=1)
    axes.set_axisbelow(True)
