"""JSON schemas as languages: the skeleton of an instance, with a language in each slot.

Instances are written in one way: every declared property in the order of the schema, `", "` and
`": "` between them, numbers without exponents, characters escaped only where JSON demands it. So
each text of a schema's language is a valid instance, though not every instance is in it. A
keyword that this cannot express is refused by name, with its place in the schema.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

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
from creditdecoding.constraints.numerals import Bound, integer, number
from creditdecoding.constraints.regex import found_pattern, whole_pattern
from creditdecoding.errors import OptionError, prefix_errors, short_repr

MAX_DEPTH = 64
"""Levels of a schema, references included."""
COUNTED = 256
"""Characters up to which a string is counted: a larger maxLength is served as this one."""
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
    *(
        "title",
        "description",
        "default",
        "example",
        "examples",
        "deprecated",
    ),
    *(
        "readOnly",
        "writeOnly",
        "discriminator",
        "contentMediaType",
        "contentEncoding",
    ),
    *("$schema", "$id", "$comment", "$defs", "definitions", "$anchor"),
)
"""Keywords that no instance breaks."""
_ANY_TYPE = ("$ref", "allOf", "anyOf", "oneOf", "const", "enum", "type")
_KEYWORDS_OF: dict[str, tuple[str, ...]] = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": (
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    ),
    "integer": (
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    ),
}
_TYPED = {"type", *itertools.chain(*_KEYWORDS_OF.values())}
_NEUTRAL = (
    ("uniqueItems", False),
    ("nullable", False),
    ("unevaluatedProperties", False),
)
_KNOWN = {
    *_ANY_TYPE,
    *ANNOTATIONS,
    *itertools.chain(*_KEYWORDS_OF.values()),
}


def schema_language(schema: Any) -> Language:
    """The instances of a schema, as JSON texts. Raises `OptionError` that names the keyword."""
    return _Node(schema, schema, "$").language()


def json_text(value: Any) -> str:
    """A JSON value as instances write it. Raises `OptionError` for what JSON does not have."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError as error:
        what = "a value of the schema is no JSON (NaN, infinity or half of a surrogate pair)"
        raise OptionError(what, hint="Correct it.") from error
    return text


@dataclass(frozen=True)
class _Node:
    """A schema inside of the whole one (`root`); `path` says where, `refs` behind which `$ref`s."""

    schema: Any
    root: Any
    path: str
    refs: tuple[str, ...] = ()
    depth: int = 0

    def inner(self, schema: Any, *path: str | int) -> _Node:
        """A schema inside of this one."""
        if self.depth >= MAX_DEPTH:
            raise OptionError(
                "the schema is too deep",
                allowed=f"{MAX_DEPTH} levels",
                hint="Make it flatter.",
            )
        inner = ".".join([self.path, *map(str, path)])
        return replace(self, schema=schema, path=inner, depth=self.depth + 1)

    def refuse(self, what: str, hint: str) -> OptionError:
        """An error at this schema."""
        return OptionError(f"the schema at {short_repr(self.path)} {what}", hint=hint)

    def language(self) -> Language:
        """The instances of this schema."""
        schema = self.schema
        if not isinstance(schema, dict):
            what = "allows any value" if schema is True else "is not an object"
            raise self.refuse(what, "Give a schema with a type.")
        for keyword in schema:
            if keyword not in _KNOWN and (keyword, schema[keyword]) not in _NEUTRAL:
                raise self.refuse(
                    f"has the unsupported keyword {short_repr(keyword)}",
                    "Drop it.",
                )
        parts = [make(self) for keyword, make in _PARTS if keyword in schema]
        if not parts or self.schema.keys() & _TYPED:
            parts.append(self._of_type(self._types()))
        return functools.reduce(Both, parts)

    def _types(self) -> list[str]:
        """The declared types, or the one that the keywords imply."""
        declared = self.schema.get("type")
        if declared is None:
            implied = [t for t in TYPES if self.schema.keys() & set(_KEYWORDS_OF.get(t, ()))]
            if not implied:
                raise self.refuse("allows any value", "Give a schema with a type.")
            return implied[:1]
        names = declared if isinstance(declared, list) else [declared]
        unknown = [name for name in names if name not in TYPES]
        if unknown or not names:
            raise self.refuse(
                f"has no such type {short_repr(unknown)}",
                f"Use {', '.join(TYPES)}.",
            )
        return names

    def _of_type(self, names: list[str]) -> Language:
        if self.schema.keys() & {
            "const",
            "enum",
            "$ref",
            "allOf",
            "anyOf",
            "oneOf",
        }:
            own = {key for name in names for key in _KEYWORDS_OF.get(name, ())}
            if not self.schema.keys() & own:  # the other keywords say which values there are
                return Either(tuple(_of_any_form(name) for name in names))
        return Either(tuple(_TYPES[name](self) for name in names))


def _of_any_form(name: str) -> Language:
    """Every JSON text that begins like a value of this type."""
    anything = Repeated(ANY, 0, None)
    if name in ("boolean", "null"):
        return _LITERALS[name]
    if name in ("number", "integer"):
        pattern = r"-?[0-9]+" if name == "integer" else r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?"
        return whole_pattern(pattern)
    first = {"object": "{", "array": "[", "string": '"'}[name]
    return joined(first, anything)


# One function for each type
# --------------------------


def _object(node: _Node) -> Language:
    """Every property, in the order in which they are declared."""
    schema = node.schema
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        raise node.refuse("has properties that are not an object", "Correct it.")
    undeclared = [name for name in schema.get("required", ()) if name not in properties]
    if undeclared:
        what = f"requires properties that it does not declare: {short_repr(undeclared)}"
        raise node.refuse(what, "Declare them.")
    if not properties and schema.get("additionalProperties", True) is not False:
        what = "is a free map (an object without declared properties)"
        raise node.refuse(what, "Declare the properties.")
    _check_count(node, len(properties), "minProperties", "maxProperties")
    members = [
        joined(
            json_text(name) + ": ",
            node.inner(inner, "properties", name).language(),
        )
        for name, inner in properties.items()
    ]
    return joined("{", *_separated(members), "}")


def _separated(members: Iterable[Language]) -> list[Language]:
    parts: list[Language] = []
    for member in members:
        parts += [literal(", "), member] if parts else [member]
    return parts


def _array(node: _Node) -> Language:
    """The items of `prefixItems`, then as many of `items` as the bounds allow."""
    schema = node.schema
    first = schema.get("prefixItems", [])
    if not isinstance(first, list):
        raise node.refuse("has prefixItems that are not a list", "Correct it.")
    least, most = _counts(node, "minItems", "maxItems")
    members = [node.inner(inner, "prefixItems", i).language() for i, inner in enumerate(first)]
    item = schema.get("items")
    if item is False or item is None or most == len(first):
        if item is None and not first and most != 0:
            raise node.refuse("does not say what its items are", "Give items.")
        _check_count(node, len(first), "minItems", "maxItems")
        return joined("[", *_separated(members), "]")
    inner = node.inner(item, "items").language()
    more = None if most is None else most - len(first)
    if more is not None and more < 0:
        raise node.refuse("has fewer maxItems than prefixItems", "Raise maxItems.")
    fewest = max(0, least - len(first))
    if members:
        return joined(
            "[",
            *_separated(members),
            Repeated(joined(", ", inner), fewest, more),
            "]",
        )
    return joined("[", _list_of(inner, fewest, more), "]")


def _list_of(item: Language, least: int, most: int | None) -> Language:
    """`least` to `most` items."""
    rest = Repeated(
        joined(", ", item),
        max(0, least - 1),
        None if most is None else most - 1,
    )
    filled = joined(item, rest)
    if most == 0:
        return joined()
    return filled if least else optional(filled)


def _string(node: _Node) -> Language:
    schema = node.schema
    least, most = _counts(node, "minLength", "maxLength")
    most = None if most is None else min(most, max(COUNTED, least))
    parts: list[Language] = []
    if "pattern" in schema:
        with prefix_errors(f"pattern at {node.path}"):
            parts.append(found_pattern(_text(node, "pattern")))
    if "format" in schema:
        name = _text(node, "format")
        if name not in FORMATS:
            what = f"has the unsupported format {short_repr(name)}"
            raise node.refuse(what, f"Use {', '.join(FORMATS)}, or a pattern.")
        parts.append(whole_pattern(FORMATS[name]))
    if not parts or least or most is not None:
        parts.append(Repeated(ANY, least, most))
    inner = functools.reduce(Both, map(in_json_string, parts))
    return joined('"', inner, '"')


def _text(node: _Node, keyword: str) -> str:
    value = node.schema[keyword]
    if not isinstance(value, str):
        raise node.refuse(f"has a {keyword} that is not a text", "Correct it.")
    return value


def _counts(node: _Node, least_name: str, most_name: str) -> tuple[int, int | None]:
    """The bounds of a length or a number of items."""
    least, most = node.schema.get(least_name, 0), node.schema.get(most_name)
    for name, value in ((least_name, least), (most_name, most)):
        is_count = value is None or (_is_number(value) and value == int(value) and value >= 0)
        if not is_count:
            raise node.refuse(f"has a {name} that is no count", "Give a whole number.")
    if most is not None and most < least:
        raise node.refuse(f"has {least_name} above {most_name}", "Correct them.")
    return int(least), None if most is None else int(most)


def _check_count(node: _Node, count: int, least_name: str, most_name: str) -> None:
    least, most = _counts(node, least_name, most_name)
    if count < least or (most is not None and count > most):
        what = f"declares {count}, which breaks {least_name} or {most_name}"
        raise node.refuse(what, "Declare as many as these allow.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bounds(node: _Node) -> tuple[Bound | None, Bound | None]:
    """The tightest bounds of a number."""
    ends: list[list[Bound]] = [[], []]
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    for i, name in enumerate(names):
        value = node.schema.get(name)
        if value is None:
            continue
        if not _is_number(value) or value != value or abs(value) == float("inf"):
            raise node.refuse(f"has a {name} that is not a number", "Give a number.")
        ends[i // 2].append(Bound(Decimal(repr(value)), open=i % 2 == 1))
    low = max(ends[0], key=lambda bound: (bound.value, bound.open), default=None)
    high = min(
        ends[1],
        key=lambda bound: (bound.value, not bound.open),
        default=None,
    )
    if low and high and low.value > high.value:
        raise node.refuse("has a minimum above its maximum", "Correct them.")
    return low, high


_LITERALS: dict[str, Language] = {
    "boolean": Either((literal("true"), literal("false"))),
    "null": literal("null"),
}
_TYPES: dict[str, Callable[[_Node], Language]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": lambda node: number(*_bounds(node)),
    "integer": lambda node: integer(*_bounds(node)),
    "boolean": lambda node: _LITERALS["boolean"],
    "null": lambda node: _LITERALS["null"],
}


# One function for each keyword of any type
# -----------------------------------------


def _reference(node: _Node) -> Language:
    """The schema that a `$ref` inside of the whole schema names."""
    name = node.schema["$ref"]
    if not isinstance(name, str) or not name.startswith("#"):
        what = f"refers to another document: {short_repr(name)}"
        raise node.refuse(what, "Put it under $defs.")
    if name in node.refs:
        what = f"refers to itself through {short_repr(name)}"
        raise node.refuse(what, "Recursive schemas have no bounded skeleton; unroll it.")
    target = node.root
    for part in name.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            raise node.refuse(
                f"refers to nothing: {short_repr(name)}",
                "Correct the $ref.",
            )
        target = target[key]
    return replace(node.inner(target, "$ref"), refs=(*node.refs, name)).language()


def _options(node: _Node, keyword: str) -> list[_Node]:
    schemas = node.schema[keyword]
    if not isinstance(schemas, list) or not schemas:
        raise node.refuse(f"has a {keyword} that is not a list of schemas", "Correct it.")
    return [node.inner(schema, keyword, i) for i, schema in enumerate(schemas)]


def _any_of(node: _Node) -> Language:
    return Either(tuple(option.language() for option in _options(node, "anyOf")))


def _one_of(node: _Node) -> Language:
    """Options of which no two have an instance in common."""
    options = _options(node, "oneOf")
    for one, other in itertools.combinations(options, 2):
        if not _are_disjoint(one, other):
            what = "has a oneOf whose options may overlap"
            raise node.refuse(
                what,
                "Use anyOf, or tell them apart by type or a const property.",
            )
    return Either(tuple(option.language() for option in options))


def _all_of(node: _Node) -> Language:
    return functools.reduce(Both, (option.language() for option in _options(node, "allOf")))


def _values(node: _Node) -> Language:
    """The values of an `enum` or a `const`."""
    schema = node.schema
    values = [schema["const"]] if "const" in schema else schema["enum"]
    if not isinstance(values, list):
        raise node.refuse("has an enum that is not a list", "Correct it.")
    if "const" in schema and "enum" in schema and schema["const"] not in schema["enum"]:
        raise node.refuse("has a const outside of its enum", "Correct it.")
    return Either(tuple(literal(json_text(value)) for value in values))


_PARTS: tuple[tuple[str, Callable[[_Node], Language]], ...] = (
    ("$ref", _reference),
    ("allOf", _all_of),
    ("anyOf", _any_of),
    ("oneOf", _one_of),
    ("const", _values),
    ("enum", _values),
)


def _are_disjoint(one: _Node, other: _Node) -> bool:
    """Whether two schemas surely have no instance in common: other types, other constants, or a
    required property with other constants.
    """
    kinds, other_kinds = _kinds(one), _kinds(other)
    if kinds and other_kinds and not kinds & other_kinds:
        return True
    values, other_values = _constants(one), _constants(other)
    if values is not None and other_values is not None:
        return not any(value in other_values for value in values)
    shared = _required(one).keys() & _required(other).keys()
    inner = [(_required(one)[name], _required(other)[name]) for name in shared]
    both_objects = kinds == other_kinds == {"object"}
    return both_objects and any(_are_disjoint(a, b) for a, b in inner)


def _resolved(node: _Node) -> Mapping[str, Any]:
    """The schema, behind references."""
    schema = node.schema
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        parts = schema["$ref"].split("/")[1:]
        schema = functools.reduce(lambda inner, key: inner.get(key, {}), parts, node.root)
    return schema if isinstance(schema, dict) else {}


def _kinds(node: _Node) -> set[str]:
    """The types of a schema, a number's one for integers too."""
    declared = _resolved(node).get("type", [])
    names = declared if isinstance(declared, list) else [declared]
    return {"number" if name == "integer" else str(name) for name in names}


def _constants(node: _Node) -> list[Any] | None:
    schema = _resolved(node)
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _required(node: _Node) -> dict[str, _Node]:
    schema = _resolved(node)
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return {}
    names = [name for name in schema.get("required", ()) if name in properties]
    return {name: node.inner(properties[name]) for name in names}
