"""Numbers of schemas that are too long to be written, and constants of any length."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from creditdecoding.constraints.automaton import compile_language
from creditdecoding.constraints.json_schema import schema_language
from creditdecoding.constraints.language import (
    DIGIT,
    EMPTY,
    Both,
    Chars,
    Either,
    Repeated,
    is_empty,
    joined,
)
from creditdecoding.errors import OptionError


def accepts(schema: Any, text: str) -> bool:
    return compile_language(schema_language(schema)).accepts(text.encode())


DECIMALS = "number of at most 9 digits before the point and 6 after it within"
INTEGERS = "integer of at most 15 digits within"


@pytest.mark.parametrize(
    ("schema", "inside", "what"),
    [
        ({"type": "number", "minimum": 1e10}, 2e10, f"{DECIMALS} {{'minimum': 10000000000.0}}"),
        ({"maximum": -1e9}, -1e9, f"{DECIMALS} {{'maximum': -1000000000.0}}"),
        ({"minimum": 2e-7, "maximum": 3e-7}, 2.5e-7, f"{DECIMALS} {{'minimum': 2e-07"),
        ({"minimum": 0.1234567, "maximum": 0.1234568}, 0.1234567, DECIMALS),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 1.000001}, 1.0000005, DECIMALS),
        ({"type": "integer", "minimum": 10**15}, 10**15, f"{INTEGERS} {{'minimum': 1000000000"),
        ({"type": ["null", "integer"], "maximum": -1e15}, -(10**15), INTEGERS),
        ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, None, INTEGERS),
    ],
)
def test_bounds_that_need_more_digits_are_refused(schema: Any, inside: Any, what: str) -> None:
    if inside is not None:
        jsonschema.validate(inside, schema)
    with pytest.raises(OptionError) as refused:
        schema_language(schema)
    assert f"the schema at '$' has no {what}" in str(refused.value)
    assert str(refused.value).endswith("not written: move the bounds, or list values.")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "number", "minimum": 10**9 - 1}, "999999999.5"),
        ({"minimum": 1e-6, "maximum": 1.5e-6}, "0.000001"),
        ({"type": "integer", "minimum": 10**15 - 1}, "999999999999999"),
    ],
)
def test_the_last_digits_are_written(schema: Any, text: str) -> None:
    assert accepts(schema, text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "const": 1.0}, "1"),
        ({"type": "integer", "enum": [2.5, -3.0]}, "-3"),
        ({"allOf": [{"type": "integer"}, {"const": 1.0}]}, "1"),
        ({"const": [1.0, {"a": 2.0}]}, '[1, {"a": 2}]'),
        ({"type": "integer", "const": 1e16, "minimum": 1e15}, "10000000000000000"),
        ({"type": "number", "const": 0.12345678, "minimum": 0}, "0.12345678"),
        ({"const": 5e-324, "exclusiveMinimum": 0}, "5e-324"),
        ({"type": ["string", "number"], "const": 1e-9, "maximum": 1}, "1e-09"),
    ],
)
def test_constants_of_any_length_are_written(schema: Any, text: str) -> None:
    jsonschema.validate(json.loads(text), schema)
    assert accepts(schema, text)


BOUNDS = [
    ({"minimum": 3}, [3, 4.5]),
    ({"exclusiveMinimum": 3}, [4.5]),
    ({"maximum": 3}, [2, 3]),
    ({"exclusiveMaximum": 3}, [2]),
    ({"type": "integer", "maximum": 9}, [2, 3]),
]


@pytest.mark.parametrize(("keywords", "expected"), BOUNDS)
def test_constants_keep_bounds_and_type(keywords: Any, expected: list[float]) -> None:
    schema = {"enum": [2, 3, 4.5], **keywords}
    assert [value for value in (2, 3, 4.5) if accepts(schema, json.dumps(value))] == expected


def test_bounds_of_constants_must_be_numbers() -> None:
    for value in (1, "a"):
        with pytest.raises(OptionError, match="minimum that is not a number"):
            schema_language({"const": value, "minimum": None})


def test_which_languages_are_empty() -> None:
    nothing = Chars(())
    full = [DIGIT, EMPTY, Either((nothing, DIGIT)), Repeated(nothing, 0, 2), Both(DIGIT, DIGIT)]
    assert not any(map(is_empty, full))
    joint = [joined("a", nothing), Repeated(nothing, 1, 2), Both(nothing, DIGIT)]
    assert all(map(is_empty, [nothing, Either(()), *joint]))
