"""Tables, intervals and the files that commands write."""

import pytest

from creditdecoding.cli import render


def test_a_table_fits_80_columns_and_keeps_all_text(capsys):
    long_name = "credit:threshold=0.95,alpha=0.5,beta=1.0,near=2.0,gap=3.0,tail=4.0,power=2"
    grid = render.table(
        ("decoder", "score %", "passes", "speed-up", "against"),
        [
            (long_name, "71.5 [70.1, 72.9]", "12.25", "10.4x", "[bold]fixed[/]"),
            None,
            ("b", *"1234"),
        ],
        "A title",
        text_columns=("against",),
    )
    render.show(grid, "A note with [brackets].")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "A title" and lines[-1] == "A note with [brackets]."
    assert max(map(len, lines)) <= 80
    first_column = "".join(line[:30] for line in lines).replace(" ", "")
    assert all(knob in first_column for knob in ("credit:thr", "tail=4.0"))
    assert any("[bold]" in line for line in lines)


@pytest.mark.parametrize(
    ("form", "text"),
    [(".1f", "-0.4 [-1.2, 0.3]"), ("+.2f", "-0.44 [-1.23, 0.31]")],
)
def test_an_interval_has_its_ends_in_brackets(form, text):
    assert render.interval({"value": -0.44, "low": -1.23, "high": 0.31}, form) == text


def test_what_is_missing_is_a_dash():
    assert render.number(None) == "-"
    assert render.interval({"value": 2.0, "low": None, "high": None}, "+.1f") == "+2.0 [-, -]"
