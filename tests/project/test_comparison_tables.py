"""The tables of the results page are those of the report that is published with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.comparison_tables import passes_at, tables

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("report_file", "page_file"),
    [
        ("report.json", "results.md"),
        ("lists/report.json", "results-lists.md"),
        ("smol/report.json", "results-smol.md"),
    ],
)
def test_the_page_has_the_tables_of_the_report(report_file: str, page_file: str) -> None:
    report = json.loads((DOCS / "results" / report_file).read_text())
    page = (DOCS / "research" / page_file).read_text()
    for title, text in tables(report).items():
        assert text in page, f"{title}: run python -m tools.comparison_tables"


def test_curves_are_read_between_their_settings() -> None:
    curve = [(4.0, 80.0), (16.0, 90.0), (64.0, 92.0)]
    assert passes_at(curve, 85.0) == pytest.approx(8.0), "half way in the logarithm of passes"
    assert passes_at(curve, 90.0) == 16.0
    assert passes_at(curve, 70.0) == 4.0, "the fewest passes that were measured"
    assert passes_at(curve, 92.5) is None
