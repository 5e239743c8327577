"""The curves of a training log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.plots.base import legend, log_axis, new_figure, save, style
from creditdecoding.viewer.colours import LINE, QUIET

_LOSSES = {
    "drill": "#b08900",
    "next_token": "#6f2b72",
    "blocks": "#4f9d69",
    "uniform": "#d9680b",
    "blockwise": "#2a7fc9",
    "ordered": "#8a8f98",
}
_MEAN = "#2a7fc9"

Scores = Mapping[str, float]


def training_png(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses of a training log and, if it has two evaluations or more, their scores.

    Raises `OptionError` for an empty log, and `MissingExtraError`.
    """
    if not records:
        raise OptionError("the training log is empty", hint="Train at least one step first.")
    scores = evaluations(records)
    with_scores = len(scores) > 1
    figure = new_figure(11 if scores else 7, 4.2)
    axes = figure.add_axes((0.07, 0.13, 0.41, 0.74) if with_scores else (0.11, 0.13, 0.85, 0.74))
    _draw_losses(axes, records)
    if with_scores:
        _draw_scores(figure.add_axes((0.55, 0.13, 0.32, 0.74)), scores)
    save(figure, path)


def evaluations(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, Scores]]:
    """(step, scores in percent by family and "mean") of every record with an evaluation."""
    return [
        (record["step"], _percentages(record["eval"])) for record in records if record.get("eval")
    ]


def _percentages(evaluation: Mapping[str, Any]) -> Scores:
    """Of {"score", "families": {name: {"score"}}} in percent, or {"mean", "families"} as shares."""
    families = evaluation.get("families", {})
    if "mean" in evaluation:
        shares = {**families, "mean": evaluation["mean"]}
        return {name: 100.0 * share for name, share in shares.items()}
    scores = {name: float(numbers["score"]) for name, numbers in families.items()}
    return {**scores, "mean": float(evaluation["score"])}


def _draw_losses(axes: Any, records: Sequence[Mapping[str, Any]]) -> None:
    """Each loss faint as logged and bold smoothed, on a logarithmic axis."""
    for name, colour in _LOSSES.items():
        logged = [record for record in records if record.get(name) is not None]
        if logged:
            steps = [record["step"] for record in logged]
            values = [float(record[name]) for record in logged]
            curve = smooth(values)
            label = f"{name.replace('_', ' ')}  {curve[-1]:.3f}"
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.22)
            axes.plot(steps, curve, color=colour, linewidth=2, label=label)
    axes.set_yscale("log")
    log_axis(axes.yaxis, *axes.get_ylim())
    legend(axes, axes.lines[1::2])
    last = records[-1]
    note = f"{last['tokens'] / 1e6:.1f} M tokens in {last['seconds'] / 60:.0f} min"
    style(axes, "Loss", note, xlabel="step")


def _draw_scores(axes: Any, scores: Sequence[tuple[int, Scores]]) -> None:
    """Each family a thin line, their mean a bold one, names at the right ends pushed apart."""
    _, last = scores[-1]
    for name in last:
        points = [(step, families[name]) for step, families in scores if name in families]
        bold = name == "mean"
        line = {"color": _MEAN, "linewidth": 2.4} if bold else {"color": LINE, "linewidth": 1}
        axes.plot(*zip(*points), marker="o", markersize=4 if bold else 2, zorder=2 + bold, **line)
    height = -math.inf
    for value, name in sorted((value, name) for name, value in last.items()):
        height = max(value, height + 5.2)
        bold = name == "mean"
        axes.text(
            1.02,
            height,
            f"{name}  {value:.0f}",
            transform=axes.get_yaxis_transform(),
            fontsize=8,
            va="center",
            color=_MEAN if bold else QUIET,
            weight="bold" if bold else "normal",
        )
    axes.set_ylim(-3, 103)
    style(axes, "Score, %", "held-out items", xlabel="step")


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential mean over about a fortieth of the log, unbiased at its start."""
    keep = 1 - 1 / max(1.0, len(values) / 40)
    total = 0.0
    weight = 0.0
    means = []
    for value in values:
        total = keep * total + value
        weight = keep * weight + 1
        means.append(total / weight)
    return means
