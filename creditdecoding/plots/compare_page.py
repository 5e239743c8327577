"""A comparison of decoders as one HTML page without external resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from creditdecoding.plots.base import svg
from creditdecoding.plots.pages import render_page
from creditdecoding.plots.tradeoff import tradeoff_figure
from creditdecoding.viewer.labels import QUALITY_COLUMNS, name_label, spec_label


def compare_html(
    report: Mapping[str, Any],
    title: str,
    about: str,
    verdicts: Sequence[str],
) -> str:
    """The page; `about` says in one line what was run. Without matplotlib it has no figure."""
    curves = report["curves"]
    areas = [curve for curve in curves if curve["area"] is not None]
    areas.sort(key=lambda curve: curve["area"]["value"], reverse=True)
    figure = svg(tradeoff_figure(report)) if find_spec("matplotlib") else ""
    return render_page(
        "compare.html",
        report=report,
        title=title,
        about=about,
        verdicts=verdicts,
        figure=figure,
        hints=_hints(report),
        chosen=_chosen_rows(report),
        areas=areas,
        quality=_quality_rows(report),
        quality_columns=[title for title, _ in _quality_columns(report).values()],
        without=[curve["name"] for curve in curves if curve["chosen"] is None],
    )


def _chosen_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The reference (without a name), then the chosen setting of each decoder by its passes."""
    rows = []
    for curve in report["curves"]:
        if curve["chosen"] is not None:
            rows.append({"name": curve["name"], "point": curve["chosen"]})
    rows.sort(key=lambda row: row["point"]["test"]["nfe"])
    reference = {"name": None, "point": report["reference"]}
    return [reference, *rows]


def _quality_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The text measures of every setting, each with its decimals."""
    columns = _quality_columns(report)
    return [
        {
            "label": spec_label(spec),
            "cells": [(numbers[key], digits) for key, (_, digits) in columns.items()],
        }
        for spec, numbers in report.get("quality", {}).items()
    ]


def _quality_columns(report: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """The columns of text measures that the report has: the likelihood needs a base."""
    rows = list(report.get("quality", {}).values())
    return {key: column for key, column in QUALITY_COLUMNS.items() if rows and key in rows[0]}


def _hints(report: Mapping[str, Any]) -> dict[str, str]:
    """A text for each point of the figure, by its gid in each of the two panels."""
    hints = {}
    for index, curve in enumerate(report["curves"]):
        for number, point in enumerate(curve["points"]):
            test = point["test"]
            setting = f"{name_label(curve['name'])} {point['value']}"
            hint = f"{setting}: {test['score']['value']:.1f} %, {test['nfe']:.2f} passes"
            for panel in range(2):
                hints[f"{panel}-{index}-{number}"] = hint
    return hints
