"""Declared options: types, bounds, specs and texts are checked with one error of one line each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.options import (
    bounds_text,
    check_fields,
    from_mapping,
    option,
    parse_values,
    split_spec,
    type_names,
)


@dataclass(frozen=True)
class Knobs:
    alpha: float = option(0.5, "A share.", gt=0.0, le=1.0)
    steps: int | None = option(None, "A count.", ge=1)
    rule: str = option("credit", "A name.", choices=("credit", "fixed"))
    fast: bool = option(False, "A switch.")
    stop: tuple[str, ...] = option((), "Texts.")
    anything: Any = option(None, "Any value.")

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", 0.0, "alpha is out of range; got 0.0; allowed: 0.0 < alpha <= 1.0."),
        ("alpha", 1.1, "alpha is out of range"),
        ("alpha", "0.5", "alpha has the wrong type; got '0.5'; allowed: a finite number."),
        ("alpha", float("nan"), "alpha has the wrong type"),
        ("alpha", True, "alpha has the wrong type"),
        ("alpha", None, "alpha has no value; allowed: a finite number."),
        ("rule", 3, "rule has the wrong type; got 3; allowed: credit | fixed."),
        ("steps", 0, "steps is out of range; got 0; allowed: 1 <= steps."),
        ("steps", 1.5, "steps has the wrong type; got 1.5; allowed: a whole number or none."),
        ("steps", 2**63, "steps is out of range"),
        ("rule", "slow", "rule is out of range; got 'slow'; allowed: credit | fixed."),
        ("fast", 1, "fast has the wrong type"),
        ("stop", "text", "stop has the wrong type"),
    ],
)
def test_a_value_outside_its_declaration_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Knobs(**{name: value})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_values_inside_their_declarations_pass() -> None:
    knobs = Knobs(1, None, "fixed", True, ("a", "b"), [object()])  # an int is a float
    assert dataclasses.replace(knobs, steps=3).steps == 3


def test_unknown_names_are_refused_with_the_nearest_one() -> None:
    assert from_mapping(Knobs, {"alpha": 0.25}).alpha == 0.25
    with pytest.raises(OptionError, match="Did you mean 'alpha'"):
        from_mapping(Knobs, {"alhpa": 0.25})


def test_types_and_bounds_are_told_of_postponed_and_of_plain_annotations() -> None:
    plain = dataclasses.make_dataclass("Plain", [("steps", int | None), ("alpha", float)])
    assert [type_names(field) for field in dataclasses.fields(plain)] == [
        ["int", "None"],
        ["float"],
    ]
    fields = {field.name: field for field in dataclasses.fields(Knobs)}
    assert type_names(fields["steps"]) == ["int", "None"]
    assert type_names(fields["anything"]) == ["Any"]
    assert [bounds_text(fields[name]) for name in ("alpha", "rule", "fast")] == [
        "0.0 < alpha <= 1.0",
        "credit | fixed",
        "",
    ]


def test_a_spec_is_split_and_its_texts_get_their_types() -> None:
    name, texts = split_spec("rule:alpha=0.25, steps=none,fast=TRUE,rule=fixed", "decoder")
    assert name == "rule"
    assert parse_values(Knobs, texts) == {
        "alpha": 0.25,
        "steps": None,
        "fast": True,
        "rule": "fixed",
    }
    assert parse_values(Knobs, {"unknown": "3"}) == {"unknown": "3"}
    with pytest.raises(OptionError, match="a decoder option without a value; got 'alpha'"):
        split_spec("rule:alpha", "decoder")
    with pytest.raises(OptionError, match="alpha is given twice; got 'rule:alpha=1, alpha=2'"):
        split_spec("rule:alpha=1, alpha=2", "decoder")
    with pytest.raises(OptionError, match="steps is not a number; got 'many'"):
        parse_values(Knobs, {"steps": "many"})
