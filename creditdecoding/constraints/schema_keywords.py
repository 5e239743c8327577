"""The keywords of JSON schemas that are read, and those that may be ignored."""

from __future__ import annotations

import itertools

TYPES = (
    "object",
    "array",
    "string",
    "number",
    "integer",
    "boolean",
    "null",
)
ANNOTATIONS = (
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
    "contentMediaType",
    "contentEncoding",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "$anchor",
)
"""Keywords that no instance breaks."""
SAY_VALUES = ("$ref", "allOf", "anyOf", "oneOf", "const", "enum")
"""Keywords that say which values there are, of any type."""
NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
KEYWORDS_OF: dict[str, tuple[str, ...]] = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": NUMBER,
    "integer": NUMBER,
}
TYPED = {"type", *itertools.chain(*KEYWORDS_OF.values())}
KNOWN = {*SAY_VALUES, *ANNOTATIONS, *TYPED}
NEUTRAL = (("uniqueItems", False), ("nullable", False))
"""Keywords that are not read, with the values that no instance breaks."""
