"""Figures of orthogonality and scaling, drawn on a figure that is handed in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from creditdecoding.plots.tradeoff import strokes
from creditdecoding.viewer.colours import LINE, QUIET, TEXT, WRITTEN


def orthogonality_size(report: Mapping[str, Any]) -> tuple[float, float]:
    """Inches."""
    return 11.5, 1.4 + 0.36 * len(report["settings"])


def draw_orthogonality(figure: Any, report: Mapping[str, Any]) -> None:
    """Passes on the left, speed against the first decoder at the base on the right, a line of dots
    a setting; both axes are logarithmic.
    """
    names = [setting["name"] for setting in report["settings"]]
    level = report["settings"][0]["decoders"][0]["seconds"]
    high = orthogonality_size(report)[1]
    for number, (title, value) in enumerate(
        (
            ("forward passes a request", "nfe"),
            (f"times as fast as {report['decoders'][0]} at the base", "seconds"),
        )
    ):
        axes = figure.add_axes((0.17 + 0.36 * number, 0.8 / high, 0.33, 1 - 1.0 / high))
        shown: list[float] = []
        for spec, (colour, _) in strokes(report["decoders"]).items():
            dots = [
                (each[value] if value == "nfe" else level / max(1e-9, each[value]), place)
                for place, setting in enumerate(report["settings"])
                for each in setting["decoders"]
                if each["decoder"] == spec
            ]
            x, y = zip(*dots)
            shown += x
            axes.plot(x, y, marker="o", markersize=7, linestyle="", color=colour, label=spec)
        logarithmic(axes, shown)
        axes.set_yticks(range(len(names)), labels=names if number == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        for place, setting in enumerate(report["settings"]):
            if setting["reason"] is not None:
                axes.annotate(
                    "not yet",
                    (0.02, place),
                    xycoords=("axes fraction", "data"),
                    fontsize=8,
                    color=QUIET,
                    va="center",
                )
        frame(axes, title)
    axes.legend(
        loc="center left", bbox_to_anchor=(1.03, 0.5), frameon=False, fontsize=9, labelcolor=TEXT
    )
    figure.text(
        0.17,
        0.1 / high,
        "Equal distances between the colours from line to line: the gains multiply.",
        fontsize=9,
        color=QUIET,
    )


def scaling_size(report: Mapping[str, Any]) -> tuple[float, float]:
    """Inches."""
    return 1.2 + 3.4 * max(1, len(report["sweeps"])), 6.2


def draw_scaling(figure: Any, report: Mapping[str, Any]) -> None:
    """A column a sweep: passes per answer token above, score below, each with its intervals."""
    count = max(1, len(report["sweeps"]))
    wide = 3.4 / scaling_size(report)[0]
    every = [
        each["per_token"][end]
        for sweep in report["sweeps"]
        for point in sweep["points"]
        for each in point["decoders"]
        for end in ("low", "high")
    ]
    for number, sweep in enumerate(report["sweeps"]):
        for below, key in enumerate(("per_token", "score")):
            left = 0.75 / scaling_size(report)[0] + number * wide
            axes = figure.add_axes((left, 0.53 - 0.42 * below, wide * 0.84, 0.38))
            _curves(axes, sweep, report["decoders"], key)
            if key == "score":
                axes.set_ylim(-3, 103)
            else:
                logarithmic(axes, every, "y")
            axes.set_ylabel(
                ("passes per answer token", "score, %")[below] if number == 0 else "",
                color=QUIET,
                fontsize=9,
            )
            frame(axes, sweep["title"] if below else "")
            if number == count - 1 and not below:
                handles, labels = axes.get_legend_handles_labels()
                figure.legend(
                    handles,
                    labels,
                    loc="upper center",
                    ncols=len(labels),
                    frameon=False,
                    fontsize=9,
                    labelcolor=TEXT,
                )


def _curves(axes: Any, sweep: Mapping[str, Any], specs: Sequence[str], key: str) -> None:
    """The points of a sweep for every decoder, a little apart where they share a place."""
    log = sweep["name"] != "answer"
    places = [math.log2(point["value"]) if log else point["value"] for point in sweep["points"]]
    gap = 0.012 * (max(places) - min(places) or 1.0)
    for number, (spec, (colour, dash)) in enumerate(strokes(specs).items()):
        found = [
            next(each for each in point["decoders"] if each["decoder"] == spec)[key]
            for point in sweep["points"]
        ]
        x = [place + gap * (number - (len(specs) - 1) / 2) for place in places]
        line = (0, tuple(map(int, dash.split()))) if dash else "-"
        axes.plot(
            x,
            [each["value"] for each in found],
            marker="o",
            markersize=4,
            color=colour,
            linestyle=line,
            linewidth=1.8,
            label=spec,
        )
        axes.vlines(
            x,
            [each["low"] for each in found],
            [each["high"] for each in found],
            color=colour,
            linewidth=1,
            alpha=0.6,
        )
    axes.set_xticks(places, labels=[point["label"] for point in sweep["points"]])


def logarithmic(axes: Any, values: Sequence[float], axis: str = "x") -> None:
    """A logarithmic axis around `values` with round numbers as ticks."""
    low, high = max(1e-6, min(values)) * 0.85, max(values) * 1.18
    round_ = (1, 2, 5) if high < 2000 * low else (1,)
    ticks = [n * 10.0**e for e in range(-6, 6) for n in round_ if low <= n * 10.0**e <= high]
    axes.set(**{f"{axis}scale": "log", f"{axis}lim": (low, high)})
    getattr(axes, f"set_{axis}ticks")(ticks, labels=[f"{tick:g}" for tick in ticks])
    getattr(axes, f"set_{axis}ticks")([], minor=True)


def frame(axes: Any, text: str) -> None:
    """A panel's quiet edges, ticks and grid, with `text` below it."""
    axes.set_xlabel(text, color=QUIET, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=QUIET, labelsize=8, length=0)
    axes.grid(color=WRITTEN, linewidth=1)
    axes.set_axisbelow(True)
