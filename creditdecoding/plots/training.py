"""The curves of a training log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.plots.base import label_ends, log_axis, new_figure, save, style
from creditdecoding.viewer.colours import EXTRA, LINE, QUIET, SERIES

_LOSSES = {
    "drill": ("look-up drill", QUIET),
    "next_token": ("next token", QUIET),
    "blocks": ("two streams", EXTRA),
    "uniform": ("masks anywhere", SERIES["threshold"]),
    "blockwise": ("masks in one block", SERIES["credit"]),
    "ordered": ("one block from its left", SERIES["thrift"]),
}
"""What a figure calls each objective of `creditdecoding.train.objective`, and its colour."""
_MEAN = SERIES["credit"]
_NAMED = 8  # families that are named at their lines: of more, the lowest

Scores = Mapping[str, float]


def training_png(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the losses of a training log and, if it has two evaluations or more, their scores.

    Raises `OptionError` for an empty log, and `MissingExtraError`.
    """
    if not records:
        raise OptionError("the training log is empty", hint="Train at least one step first.")
    scores = evaluations(records)
    with_scores = len(scores) > 1
    figure = new_figure(12.5 if with_scores else 8, 4.2)
    loss_width = 0.33 if with_scores else 0.62
    loss_axes = figure.add_axes((0.06, 0.13, loss_width, 0.74))
    _draw_losses(loss_axes, records)
    if with_scores:
        score_axes = figure.add_axes((0.59, 0.13, 0.28, 0.74))
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
    ends = []
    for name, (words, colour) in _LOSSES.items():
        logged = [record for record in records if record.get(name) is not None]
        if logged:
            step, value = _draw_loss(axes, name, colour, logged)
            ends.append((step, value, f"{words}  {value:.3f}", colour))
    smoothed = [value for line in axes.lines[1::2] for value in line.get_ydata()]
    log_axis(axes.yaxis, min(smoothed) / 4, 1.5 * max(smoothed))
    last = records[-1]
    axes.set_xlim(0, max(1, last["step"]))
    _name_losses(axes, ends)
    millions = last["tokens"] / 1e6
    minutes = last["seconds"] / 60
    note = f"{millions:.1f} M tokens in {minutes:.0f} min"
    style(axes, "Loss", note, xlabel="step")


def _draw_loss(
    axes: Any, name: str, colour: str, logged: Sequence[Mapping[str, Any]]
) -> tuple[int, float]:
    """Draw one loss over the steps that logged it; where its smoothed line ends."""
    steps = [record["step"] for record in logged]
    values = [float(record[name]) for record in logged]
    curve = smooth(values)
    axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.22)
    axes.plot(steps, curve, color=colour, linewidth=2)
    return steps[-1], curve[-1]


def _name_losses(axes: Any, ends: Sequence[tuple[int, float, str, str]]) -> None:
    """Write (step, loss, text, colour) where each line ends: beside the axes if it lasts so long,
    otherwise above its end.
    """
    _, last_step = axes.get_xlim()
    beside = []
    for step, value, text, colour in ends:
        if step > 0.9 * last_step:
            beside.append((value, text, colour))
            continue
        axes.annotate(
            text,
            xy=(step, value),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=9,
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        )
    label_ends(axes, beside)


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
    axes.set_ylim(-3, 103)
    label_ends(axes, _score_ends(last))
    style(axes, "Score, %", "held-out items", xlabel="step")


def _score_ends(scores: Scores) -> list[tuple[float, str, str]]:
    """Score, name and colour of the mean and of the lowest families."""
    families = sorted((score, name) for name, score in scores.items() if name != "mean")
    ends = [(score, f"{name}  {score:.0f}", QUIET) for score, name in families[:_NAMED]]
    mean = scores["mean"]
    return [*ends, (mean, f"mean  {mean:.0f}", _MEAN)]


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
