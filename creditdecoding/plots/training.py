"""The curves of a training log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.plots.base import legend, log_axis, new_figure, save, style
from creditdecoding.viewer.colours import EXTRA, LINE, QUIET, SERIES

_LOSSES = {
    "drill": QUIET,
    "next_token": EXTRA,
    "blocks": SERIES["thrift"],
    "uniform": SERIES["threshold"],
    "blockwise": SERIES["credit"],
    "ordered": LINE,
}
_MEAN = SERIES["credit"]

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
    left = 0.07 if with_scores else 0.11
    width = 0.41 if with_scores else 0.85
    loss_axes = figure.add_axes((left, 0.13, width, 0.74))
    _draw_losses(loss_axes, records)
    if with_scores:
        score_axes = figure.add_axes((0.55, 0.13, 0.32, 0.74))
        _draw_scores(score_axes, scores)
    save(figure, path)


def evaluations(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, Scores]]:
    """(step, scores in percent by family and "mean") of every record with an evaluation."""
    scores = []
    for record in records:
        if record.get("eval"):
            scores.append((record["step"], _percentages(record["eval"])))
    return scores


def _percentages(evaluation: Mapping[str, Any]) -> Scores:
    """Of {"score", "families": {name: {"score"}}} in percent, or {"mean", "families"} as shares."""
    families = evaluation.get("families", {})
    if "mean" in evaluation:
        shares = {**families, "mean": evaluation["mean"]}
        return {name: 100.0 * share for name, share in shares.items()}
    scores = {name: float(numbers["score"]) for name, numbers in families.items()}
    return {**scores, "mean": float(evaluation["score"])}


def _draw_losses(axes: Any, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw each loss on a logarithmic axis: faint as logged, and bold smoothed."""
    for name, colour in _LOSSES.items():
        logged = [record for record in records if record.get(name) is not None]
        if logged:
            _draw_loss(axes, name, colour, logged)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    log_axis(axes.yaxis, low, high)
    smoothed = axes.lines[1::2]
    legend(axes, smoothed)
    last = records[-1]
    millions = last["tokens"] / 1e6
    minutes = last["seconds"] / 60
    note = f"{millions:.1f} M tokens in {minutes:.0f} min"
    style(axes, "Loss", note, xlabel="step")


def _draw_loss(axes: Any, name: str, colour: str, logged: Sequence[Mapping[str, Any]]) -> None:
    """Draw one loss over the steps that logged it; the legend gives its last smoothed value."""
    steps = [record["step"] for record in logged]
    values = [float(record[name]) for record in logged]
    curve = smooth(values)
    noun = name.replace("_", " ")
    axes.plot(
        steps,
        values,
        color=colour,
        linewidth=0.7,
        alpha=0.22,
    )
    axes.plot(
        steps,
        curve,
        color=colour,
        linewidth=2,
        label=f"{noun}  {curve[-1]:.3f}",
    )


def _draw_scores(axes: Any, scores: Sequence[tuple[int, Scores]]) -> None:
    """Draw each family as a thin line and their mean as a bold one, named at the right ends."""
    _, last = scores[-1]
    for name in last:
        points = [(step, families[name]) for step, families in scores if name in families]
        is_mean = name == "mean"
        axes.plot(
            *zip(*points),
            marker="o",
            markersize=4 if is_mean else 2,
            zorder=3 if is_mean else 2,
            color=_MEAN if is_mean else LINE,
            linewidth=2.4 if is_mean else 1,
        )
    _write_names(axes, last)
    axes.set_ylim(-3, 103)
    style(axes, "Score, %", "held-out items", xlabel="step")


def _write_names(axes: Any, scores: Scores) -> None:
    """Write the name and score of each family right of the axes, pushed apart to be readable."""
    height = -math.inf
    by_score = sorted((score, name) for name, score in scores.items())
    for score, name in by_score:
        height = max(score, height + 5.2)
        is_mean = name == "mean"
        axes.text(
            1.02,
            height,
            f"{name}  {score:.0f}",
            transform=axes.get_yaxis_transform(),
            fontsize=8,
            va="center",
            color=_MEAN if is_mean else QUIET,
            weight="bold" if is_mean else "normal",
        )


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
