"""Schemas that another reader would read otherwise: nested resources, and keywords of later drafts."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from creditdecoding.constraints.automaton import compile_language
from creditdecoding.constraints.json_schema import schema_language
from creditdecoding.constraints.schema_drafts import DRAFTS
from creditdecoding.errors import OptionError

NULL, BOOLEAN = {"type": "null"}, {"type": "boolean"}
PAIR = {"type": "array", "prefixItems": [NULL], "items": BOOLEAN, "minItems": 2, "maxItems": 2}


def url(draft: str) -> str:
    return f"http://json-schema.org/{draft}/schema#"


def accepts(schema: Any, text: str) -> bool:
    return compile_language(schema_language(schema)).accepts(text.encode())


def refusal(schema: Any) -> str:
    with pytest.raises(OptionError) as refused:
        schema_language(schema)
    return str(refused.value)


def in_a_resource(inner: dict[str, Any]) -> dict[str, Any]:
    """A property that is a resource of its own, with a definition that the root has too."""
    own = {"$id": "https://x.org/inner", "$defs": {"a": {"const": "inner"}}, **inner}
    return {"properties": {"p": own}, "$defs": {"a": {"const": "outer"}}}


def test_a_resource_below_the_root_is_refused() -> None:
    """A validator starts `#` at the resource."""
    schema = in_a_resource({"$ref": "#/$defs/a"})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"p": "outer"}, schema)
    assert refusal(schema) == (
        "the schema at '$.properties.p' has $id below the root: 'https://x.org/inner'. "
        "Drop it: references and keywords are read as the root's."
    )


def test_a_reference_into_a_resource_is_refused() -> None:
    schema = in_a_resource({"properties": {"q": {"$ref": "#/$defs/a"}}})
    across = {"$ref": "#/$defs/r/properties/q", "$defs": {"r": schema["properties"]["p"]}}
    assert "refers into a schema with an $id of its own" in refusal(across)
    assert "an $id of its own" in refusal({"oneOf": [across, NULL], **across})


def test_an_id_of_the_root_and_a_property_of_that_name_are_read() -> None:
    named = {"p": {"$ref": "#/properties/$id"}, "$id": NULL}
    schema = {"$id": "https://x.org/s", "properties": named}
    assert accepts(schema, '{"p": null, "$id": null}')


def test_a_schema_of_another_draft_below_the_root_is_refused() -> None:
    schema = {"properties": {"p": {"$schema": url("draft-07"), **PAIR}}}
    jsonschema.validate({"p": [False, False]}, schema)
    assert "has $schema below the root: 'http://json-schema.org/draft-07/schema#'" in refusal(
        schema
    )


@pytest.mark.parametrize("draft", DRAFTS[:-1])
def test_prefix_items_are_of_the_last_draft(draft: str) -> None:
    schema = {"$schema": url(draft), **PAIR}
    assert refusal(schema) == (
        "the schema at '$' has the keyword 'prefixItems' of draft/2020-12, "
        f"but $schema declares {draft}. Declare draft/2020-12 or later, or drop the keyword."
    )
    assert accepts({**PAIR, "$schema": url(DRAFTS[-1])}, "[null, true]")
    assert accepts(PAIR, "[null, true]")


@pytest.mark.parametrize("keyword", ["const", "exclusiveMinimum", "exclusiveMaximum"])
def test_draft_04_has_no_constants_and_other_exclusive_bounds(keyword: str) -> None:
    schema = {"properties": {"p": {"type": "integer", keyword: 5}}}
    what = (
        f"'$.properties.p' has the keyword '{keyword}' of draft-06, but $schema declares draft-04"
    )
    assert what in refusal({"$schema": url("draft-04"), **schema})
    compile_language(schema_language({"$schema": url("draft-06"), **schema}))


@pytest.mark.parametrize("declared", ["https://x.org/mine", url("draft-03"), 7])
def test_other_drafts_are_refused(declared: object) -> None:
    message = refusal({"$schema": declared, **NULL})
    assert f"declares a $schema that is not supported: {declared!r}" in message
    assert message.endswith("with draft-04, draft-06, draft-07, draft/2019-09, draft/2020-12.")


def test_a_pointer_is_decoded_before_it_is_followed() -> None:
    schema = {"$ref": "#/$defs/a%20b", "$defs": {"a b": {"const": 1}, "a%20b": {"const": 2}}}
    jsonschema.validate(1, schema)
    assert accepts(schema, "1") and not accepts(schema, "2")


def test_unevaluated_properties_are_those_that_no_schema_declares() -> None:
    declared = {"properties": {"k": NULL}, "unevaluatedProperties": False}
    assert accepts(declared, '{"k": null}')
    constant = {"const": {"k": 0}, "unevaluatedProperties": False}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"k": 0}, constant)
    assert "unsupported keyword 'unevaluatedProperties'" in refusal(constant)
