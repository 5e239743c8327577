"""A comparison of decoders as one HTML page without external resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2

from creditdecoding.plots.base import svg
from creditdecoding.plots.tradeoff import tradeoff_figure

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("static")), autoescape=True
)


def compare_html(report: Mapping[str, Any], title: str, about: str, verdicts: Sequence[str]) -> str:
    """The page; `about` says in one line what was run. Without matplotlib it has no figure."""
    curves = report["curves"]
    chosen = [{"name": curve["name"], "point": curve["chosen"]} for curve in curves]
    chosen = [row for row in chosen if row["point"] is not None]
    chosen.sort(key=lambda row: row["point"]["test"]["nfe"])
    areas = [curve for curve in curves if curve["area"] is not None]
    return _TEMPLATES.get_template("compare.html").render(
        report=report,
        title=title,
        about=about,
        verdicts=verdicts,
        figure=svg(tradeoff_figure(report)) if find_spec("matplotlib") else "",
        hints=_hints(report),
        chosen=[{"name": None, "point": report["reference"]}, *chosen],
        areas=sorted(areas, key=lambda curve: curve["area"]["value"], reverse=True),
        without=[curve["name"] for curve in curves if curve["chosen"] is None],
    )


def _hints(report: Mapping[str, Any]) -> dict[str, str]:
    """A text for each point of the figure, by its gid in each of the two panels."""
    return {
        f"{panel}-{index}-{number}": (
            f"{curve['name']} {point['value']}: {point['test']['score']['value']:.1f} %, "
            f"{point['test']['nfe']:.2f} passes"
        )
        for panel in range(2)
        for index, curve in enumerate(report["curves"])
        for number, point in enumerate(curve["points"])
    }
