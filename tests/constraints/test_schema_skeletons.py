"""Parts of a schema that write other objects, and those that write the same ones."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from creditdecoding.constraints.automaton import compile_language
from creditdecoding.constraints.json_schema import schema_language
from creditdecoding.errors import OptionError

NULL = {"type": "null"}


def written(*names: str) -> dict[str, Any]:
    """An object of these properties, which others may join."""
    return {"type": "object", "properties": dict.fromkeys(names, NULL), "required": list(names)}


NULLABLE = {**written("a"), "type": ["object", "null"]}
DEFS = {"$defs": {"a": written("a")}}


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"allOf": [written("a"), written("b")]}, "allOf.0 writes ['a'], allOf.1 writes ['b']"),
        ({"allOf": [written("a", "b"), written("b", "a")]}, "allOf.1 writes ['b', 'a']"),
        ({"allOf": [written("a")], **written("b")}, "properties writes ['b']"),
        ({"$ref": "#/$defs/a", **written("b"), **DEFS}, "$ref writes ['a'], properties"),
        ({"anyOf": [written("a"), NULL], **written("a", "b")}, "anyOf writes ['a'], properties"),
        ({"oneOf": [{"allOf": [written("a")]}], **written("b")}, "oneOf writes ['a']"),
        ({"allOf": [NULLABLE, {**written("b"), "type": ["object", "null"]}]}, "allOf.1 writes"),
        ({"const": {"a": None, "b": None}, **written("a")}, "const writes ['a', 'b']"),
        ({"enum": [{"a": None, "b": None}], **written("a")}, "enum writes ['a', 'b']"),
    ],
)
def test_parts_that_write_other_objects_are_refused(schema: Any, what: str) -> None:
    jsonschema.validate({"a": None, "b": None}, schema)
    with pytest.raises(OptionError) as refused:
        schema_language(schema)
    assert "the schema at '$' joins objects that differ: " in str(refused.value)
    assert what in str(refused.value)
    assert str(refused.value).endswith("Declare the same properties in the same order in both.")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"allOf": [written("a"), written("a")]}, '{"a": null}'),
        ({"allOf": [{"type": "object", "$ref": "#/$defs/a"}, written("a")], **DEFS}, '{"a": null}'),
        ({"anyOf": [written("a"), written("b")], **written("b")}, '{"b": null}'),
        ({"anyOf": [{"const": {"b": None}}, {"enum": [1]}], **written("b")}, '{"b": null}'),
        ({"enum": [{"a": None}, 3], "anyOf": [written("b"), {"type": "integer"}]}, "3"),
        ({"allOf": [NULLABLE, {"type": ["null", "string"]}]}, "null"),
    ],
)
def test_parts_that_write_the_same_objects_are_read(schema: Any, text: str) -> None:
    assert compile_language(schema_language(schema)).accepts(text.encode())


def test_an_error_names_the_schema_inside_of_the_whole_one() -> None:
    inner = {"allOf": [written("a"), written("b")]}
    with pytest.raises(OptionError, match=r"'\$.properties.p' joins"):
        schema_language({"properties": {"p": inner}})
