"""Prints the tables of docs/research/results.md from the report of a comparison.

python -m tools.comparison_tables docs/results/report.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]
Rows = Sequence[Sequence[str]]

LOSSES = (2.0, 1.0, 0.5)
"""Points of score below standard decoding at which curves are read."""


def tables(report: Json) -> dict[str, str]:
    """The tables in Markdown, by title."""
    return {
        "Fewest passes within a point of standard decoding": _chosen(report),
        "Yardsticks of the same settings": _yardsticks(report),
        "Areas": _areas(report),
        "Passes at equal score": _equal_score(report),
        "All settings on test": _curves(report),
    }


def _chosen(report: Json) -> str:
    """The settings chosen on dev, fewest passes on test first, and how the best compares."""
    families = report["families"]
    against = {row["name"]: row for row in report["against_best"]}
    rows = []
    for curve in _by_passes(report):
        setting = curve["chosen"]
        test = setting["test"]
        ratio = against[curve["name"]]["passes_ratio"]["value"] if curve["name"] in against else 1
        scores = [f"{setting['families'][task]['score']:.0f}" for task in families]
        rows.append(
            [
                f"`{curve['name']}`",
                f"{curve['knob']} {setting['value']}",
                f"{test['nfe']:.2f}",
                f"{test['speedup']['value']:.1f}x",
                f"{ratio:.2f}",
                f"{test['score']['value']:.1f}",
                _interval(test["difference"]),
                *scores,
            ]
        )
    head = ["decoder", "chosen on dev", "NFE", "fewer", "NFE over the best's", "score %"]
    return _table([*head, "difference [95 %]", *families], rows)


def _yardsticks(report: Json) -> str:
    """Tokens a pass, the spread of passes and, in reports that have it, time without the model."""
    curves = _by_passes(report)
    has_shares = all(curve["chosen"].get("outside_share") is not None for curve in curves)
    rows = []
    for curve in curves:
        setting = curve["chosen"]
        tokens = setting["tpf"]
        spread = " / ".join(f"{passes:.0f}" for passes in setting["nfe_spread"])
        counts = [f"{tokens[name]:.2f}" for name in ("visible", "with_stop", "full_span")]
        shares = [f"{100 * setting['outside_share']:.1f}"] if has_shares else []
        rows.append([f"`{curve['name']}`", *counts, spread, *shares])
    head = ["decoder", "tokens a pass, answer", "with end token", "full span"]
    head.append("NFE at 10 / 50 / 90 % / most")
    if has_shares:
        head.append("time outside of the model %")
    return _table(head, rows)


def _areas(report: Json) -> str:
    """Areas against the baseline, best first, and AUP."""
    aup = list(report["aup"].values())[-1]  # of all tasks, which come last, or of the only one
    swept = [curve for curve in report["curves"] if curve["area_difference"]]
    swept.sort(key=lambda curve: -curve["area_difference"]["value"])
    rows = [
        [f"`{curve['name']}`", _interval(curve["area_difference"], 2), f"{aup[curve['name']]:.0f}"]
        for curve in swept
    ]
    baseline = report["baseline"]
    return _table(["decoder", f"points against `{baseline}` [95 %]", "AUP"], rows)


def _equal_score(report: Json) -> str:
    """The passes of each curve at scores below standard decoding's, read between its settings."""
    standard = report["reference"]["test"]["score"]["value"]
    scores = [standard - loss for loss in LOSSES]
    rows = []
    for curve in report["curves"]:
        passes = [passes_at(_points(curve), score) for score in scores]
        rows.append((f"`{curve['name']}`", passes))
    rows.sort(key=lambda row: [passes or float("inf") for passes in row[1]])
    cells = [[name, *(f"{count:.2f}" if count else "-" for count in row)] for name, row in rows]
    return _table(["decoder", *(f"{score:.1f} %" for score in scores)], cells)


def passes_at(points: Sequence[tuple[float, float]], score: float) -> float | None:
    """The fewest passes at which a curve of (passes, score) reaches a score; None if it never does.

    Between two settings the score is taken as linear in the logarithm of passes.
    """
    ordered = sorted(points)
    if ordered[0][1] >= score:
        return ordered[0][0]
    for (passes, low), (more_passes, high) in pairwise(ordered):
        if low < score <= high:
            share = (score - low) / (high - low)
            return float(passes * (more_passes / passes) ** share)
    return None


def _curves(report: Json) -> str:
    rows = []
    for curve in report["curves"]:
        settings = []
        for point in curve["points"]:
            figures = f"{point['test']['score']['value']:.1f} at {point['test']['nfe']:.2f}"
            settings.append(f"{point['value']}: {figures}" if point["value"] else figures)
        rows.append([f"`{curve['name']}`", curve["knob"] or "-", ", ".join(settings)])
    return _table(["decoder", "main knob", "score % at NFE"], rows)


def _by_passes(report: Json) -> list[Json]:
    curves = [curve for curve in report["curves"] if curve["chosen"]]
    return sorted(curves, key=lambda curve: curve["chosen"]["test"]["nfe"])


def _points(curve: Json) -> list[tuple[float, float]]:
    tests = [point["test"] for point in curve["points"]]
    return [(test["nfe"], test["score"]["value"]) for test in tests]


def _interval(estimate: Json, digits: int = 1) -> str:
    value, low, high = (f"{estimate[name]:+.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _table(head: Sequence[str], rows: Rows) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Rows) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def main() -> None:
    """Print the tables of the report that is named."""
    report = json.loads(Path(sys.argv[1]).read_text())
    for title, text in tables(report).items():
        print(f"## {title}\n\n{text}\n")


if __name__ == "__main__":
    main()
