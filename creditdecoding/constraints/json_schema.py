"""JSON schemas as languages: the skeleton of an instance, with a language in each slot.

Instances are written in one way: every declared property in the order of the schema, `", "` and
`": "` between them, numbers without exponents, characters escaped only where JSON demands it. So
each text of a schema's language is a valid instance, though not every instance is in it. A
keyword that this cannot express is refused by name, with its place in the schema.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from creditdecoding.constraints.budget import Budget
from creditdecoding.constraints.formats import FORMATS
from creditdecoding.constraints.language import (
    ANY,
    Both,
    Either,
    Language,
    Repeated,
    in_json_string,
    joined,
    literal,
    optional,
)
from creditdecoding.constraints.regex import found_pattern, whole_pattern
from creditdecoding.constraints.schema_drafts import check_keywords
from creditdecoding.constraints.schema_keywords import TYPED
from creditdecoding.constraints.schema_node import LIMITS, SchemaNode
from creditdecoding.constraints.schema_numbers import (
    ANY_INTEGER,
    ANY_NUMBER,
    allows,
    integer_language,
    is_number,
    number_language,
)
from creditdecoding.constraints.schema_overlap import check_disjoint
from creditdecoding.constraints.schema_skeletons import check_skeletons
from creditdecoding.errors import prefix_errors, short_repr

COUNTED = 256
"""Characters up to which a string is counted: a larger maxLength is served as this one."""


def schema_language(schema: Any) -> Language:
    """The instances of a schema, as JSON texts. Raises `OptionError` that names the keyword."""
    return _language(SchemaNode(schema, schema, "$", Budget(LIMITS)))


def _language(node: SchemaNode) -> Language:
    """The instances of a schema inside of the whole one."""
    schema = node.schema
    if not isinstance(schema, dict):
        what = "allows any value" if schema is True else "is not an object"
        raise node.refuse(what, "Give a schema with a type.")
    check_keywords(node)
    parts = [make(node) for keyword, make in _PARTS if keyword in schema]
    if not parts or schema.keys() & TYPED:
        parts.append(_of_type(node))
    if len(parts) > 1 or "allOf" in schema:
        check_skeletons(node)
    return _all(node, parts)


def _all(node: SchemaNode, parts: Iterable[Language]) -> Language:
    """The texts that are in every part of a schema."""
    return functools.reduce(lambda one, other: Both(one, other, node.path), parts)


def _of_type(node: SchemaNode) -> Language:
    """The values of the node's types; of any form where other keywords say which there are."""
    if node.is_written_by_type():
        return Either(tuple(_TYPES[name](node) for name in node.types()))
    return Either(tuple(_ANY_FORM[name] for name in node.types()))


# One function for each type
# --------------------------


def _object(node: SchemaNode) -> Language:
    """Every property, in the order in which they are declared."""
    schema = node.schema
    properties = node.properties()
    undeclared = [name for name in node.required_names() if name not in properties]
    if undeclared:
        what = f"requires properties that it does not declare: {short_repr(undeclared)}"
        raise node.refuse(what, "Declare them.")
    if not properties and schema.get("additionalProperties", True) is not False:
        what = "is a free map (an object without declared properties)"
        raise node.refuse(what, "Declare the properties.")
    _check_count(node, len(properties), "minProperties", "maxProperties")
    members = [
        joined(
            node.as_json(name) + ": ",
            _language(node.inner(inner, "properties", name)),
        )
        for name, inner in properties.items()
    ]
    return joined("{", *_separated(members), "}")


def _separated(members: Iterable[Language]) -> list[Language]:
    """The members with commas in between."""
    parts: list[Language] = []
    for member in members:
        parts += [literal(", "), member] if parts else [member]
    return parts


def _array(node: SchemaNode) -> Language:
    """The items of `prefixItems`, then as many of `items` as the bounds allow."""
    schema = node.schema
    first = node.values("prefixItems")
    least, most = _counts(node, "minItems", "maxItems")
    members = [_language(node.inner(inner, "prefixItems", i)) for i, inner in enumerate(first)]
    item = schema.get("items", False)
    if item is False or most == len(first):
        if "items" not in schema and not first and most != 0:
            raise node.refuse("does not say what its items are", "Give items.")
        _check_count(node, len(first), "minItems", "maxItems")
        return joined("[", *_separated(members), "]")
    inner = _language(node.inner(item, "items"))
    more = None if most is None else most - len(first)
    if more is not None and more < 0:
        raise node.refuse("has fewer maxItems than prefixItems", "Raise maxItems.")
    fewest = max(0, least - len(first))
    if members:
        rest = Repeated(joined(", ", inner), fewest, more)
        return joined("[", *_separated(members), rest, "]")
    return joined("[", _list_of(inner, fewest, more), "]")


def _list_of(item: Language, least: int, most: int | None) -> Language:
    """`least` to `most` items, where `most` is not 0."""
    fewest_more = max(0, least - 1)
    most_more = None if most is None else most - 1
    rest = Repeated(joined(", ", item), fewest_more, most_more)
    filled = joined(item, rest)
    return filled if least else optional(filled)


def _string(node: SchemaNode) -> Language:
    schema = node.schema
    least, most = _counts(node, "minLength", "maxLength")
    most = None if most is None else min(most, max(COUNTED, least))
    parts: list[Language] = []
    if "pattern" in schema:
        pattern = node.text("pattern")
        with prefix_errors(f"pattern at {node.path}"):
            parts.append(found_pattern(pattern))
    if "format" in schema:
        name = node.text("format")
        if name not in FORMATS:
            what = f"has the unsupported format {short_repr(name)}"
            raise node.refuse(what, f"Use {', '.join(FORMATS)}, or a pattern.")
        parts.append(whole_pattern(FORMATS[name]))
    if not parts or least or most is not None:
        parts.append(Repeated(ANY, least, most))
    inner = _all(node, map(in_json_string, parts))
    return joined('"', inner, '"')


def _counts(node: SchemaNode, least_name: str, most_name: str) -> tuple[int, int | None]:
    """The bounds of a length or a number of items."""
    least = _count(node, least_name) or 0
    most = _count(node, most_name)
    if most is not None and most < least:
        raise node.refuse(f"has {least_name} above {most_name}", "Correct them.")
    return least, most


def _count(node: SchemaNode, name: str) -> int | None:
    """The value of a keyword that counts; None if it is not there."""
    if name not in node.schema:
        return None
    value = node.schema[name]
    if not is_number(value) or value != int(value) or value < 0:
        raise node.refuse(f"has a {name} that is no count", "Give a whole number.")
    return int(value)


def _check_count(node: SchemaNode, count: int, least_name: str, most_name: str) -> None:
    """Refuse a fixed number of members that the bounds do not allow."""
    least, most = _counts(node, least_name, most_name)
    if count < least or (most is not None and count > most):
        what = f"declares {count}, which breaks {least_name} or {most_name}"
        raise node.refuse(what, "Declare as many as these allow.")


_LITERALS: dict[str, Language] = {
    "boolean": Either((literal("true"), literal("false"))),
    "null": literal("null"),
}
_ANY_TEXT = Repeated(ANY, 0, None)
_ANY_FORM: dict[str, Language] = {
    **_LITERALS,
    "object": joined("{", _ANY_TEXT),
    "array": joined("[", _ANY_TEXT),
    "string": joined('"', _ANY_TEXT),
    "integer": ANY_INTEGER,
    "number": ANY_NUMBER,
}
"""By type, every JSON text that begins like one of its values."""
_TYPES: dict[str, Callable[[SchemaNode], Language]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": number_language,
    "integer": integer_language,
    "boolean": lambda node: _LITERALS["boolean"],
    "null": lambda node: _LITERALS["null"],
}


# One function for each keyword of any type
# -----------------------------------------


def _reference(node: SchemaNode) -> Language:
    """The schema that a `$ref` inside of the whole schema names."""
    name = node.text("$ref")
    if name in node.refs:
        what = f"refers to itself through {short_repr(name)}"
        raise node.refuse(what, "Recursive schemas have no bounded skeleton; unroll it.")
    inner = node.inner(node.target(name), "$ref")
    return _language(replace(inner, refs=(*node.refs, name)))


def _options(node: SchemaNode, keyword: str) -> list[SchemaNode]:
    """The schemas in the list of a keyword."""
    schemas = node.values(keyword)
    if not schemas:
        raise node.refuse(f"has no options in {keyword}", "Give a list of schemas.")
    return [node.inner(schema, keyword, i) for i, schema in enumerate(schemas)]


def _any_of(node: SchemaNode) -> Language:
    return Either(tuple(_language(option) for option in _options(node, "anyOf")))


def _one_of(node: SchemaNode) -> Language:
    """Options of which no two have an instance in common."""
    options = _options(node, "oneOf")
    check_disjoint(node, options)
    return Either(tuple(_language(option) for option in options))


def _all_of(node: SchemaNode) -> Language:
    return _all(node, [_language(option) for option in _options(node, "allOf")])


def _const(node: SchemaNode) -> Language:
    return _one_of_values(node, [node.schema["const"]])


def _enum(node: SchemaNode) -> Language:
    return _one_of_values(node, node.values("enum"))


def _one_of_values(node: SchemaNode, values: list[Any]) -> Language:
    """The values, without numbers that the schema's type or bounds exclude."""
    return Either(tuple(literal(node.as_json(value)) for value in values if allows(node, value)))


_PARTS: tuple[tuple[str, Callable[[SchemaNode], Language]], ...] = (
    ("$ref", _reference),
    ("allOf", _all_of),
    ("anyOf", _any_of),
    ("oneOf", _one_of),
    ("const", _const),
    ("enum", _enum),
)
