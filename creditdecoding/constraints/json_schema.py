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
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
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
from creditdecoding.constraints.numerals import Bound, integer, number
from creditdecoding.constraints.regex import found_pattern, whole_pattern
from creditdecoding.constraints.schema_keywords import (
    KEYWORDS_OF,
    KNOWN,
    NEUTRAL,
    SAY_VALUES,
    TYPED,
    TYPES,
)
from creditdecoding.errors import OptionError, prefix_errors, short_repr

MAX_DEPTH = 64
"""Levels of a schema, references included."""
COUNTED = 256
"""Characters up to which a string is counted: a larger maxLength is served as this one."""
SCHEMAS = "schemas (what a $ref names counts again at each of them)"
COMPARISONS = "pairs of options of oneOf"
CHARACTERS = "characters of names, constants and patterns"
LIMITS = {
    SCHEMAS: 2_000,
    COMPARISONS: 100_000,
    CHARACTERS: 100_000,
}
"""The work of one schema, with all that it refers to."""


def schema_language(schema: Any) -> Language:
    """The instances of a schema, as JSON texts. Raises `OptionError` that names the keyword."""
    return _Node(schema, schema, "$", Budget(LIMITS)).language()


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
    budget: Budget
    refs: tuple[str, ...] = ()
    depth: int = 0

    def inner(self, schema: Any, *path: str | int) -> _Node:
        """A schema inside of this one."""
        self.budget.spend(SCHEMAS)
        if self.depth >= MAX_DEPTH:
            raise OptionError(
                "the schema is too deep",
                allowed=f"{MAX_DEPTH} levels",
                hint="Make it flatter.",
            )
        inner = ".".join([self.path, *map(str, path)])
        return replace(self, schema=schema, path=inner, depth=self.depth + 1)

    def refuse(self, what: str, hint: str = "Correct it.") -> OptionError:
        """An error at this schema."""
        return OptionError(f"the schema at {short_repr(self.path)} {what}", hint=hint)

    def as_json(self, value: Any) -> str:
        """A name or a constant as instances write it. Raises `OptionError`."""
        text = json_text(value)
        self.budget.spend(CHARACTERS, len(text))
        return text

    def text(self, keyword: str) -> str:
        """The value of a keyword that must be a text."""
        value = self.schema[keyword]
        if not isinstance(value, str):
            raise self.refuse(f"has a {keyword} that is not a text")
        self.budget.spend(CHARACTERS, len(value))
        return value

    def values(self, keyword: str) -> list[Any]:
        """The value of a keyword that must be a list; empty if it is not there."""
        values = self.schema.get(keyword, [])
        if not isinstance(values, list):
            raise self.refuse(f"has {keyword} that is not a list")
        return values

    def language(self) -> Language:
        """The instances of this schema."""
        schema = self.schema
        if not isinstance(schema, dict):
            what = "allows any value" if schema is True else "is not an object"
            raise self.refuse(what, "Give a schema with a type.")
        for keyword in schema:
            if keyword not in KNOWN and (keyword, schema[keyword]) not in NEUTRAL:
                raise self.refuse(
                    f"has the unsupported keyword {short_repr(keyword)}",
                    "Drop it.",
                )
        parts = [make(self) for keyword, make in _PARTS if keyword in schema]
        if not parts or schema.keys() & TYPED:
            parts.append(self._of_type(self._types()))
        return functools.reduce(Both, parts)

    # What a comparison of two schemas asks for, made once:

    @functools.cached_property
    def behind_refs(self) -> _Node:
        """What this schema's `$ref` names, if it has one and is an object; else the schema."""
        node = self
        for _ in range(MAX_DEPTH):
            if not isinstance(node.schema, dict) or "$ref" not in node.schema:
                break
            node = node.inner(_target(node, node.text("$ref")), "$ref")
        return node if isinstance(node.schema, dict) else replace(node, schema={})

    @functools.cached_property
    def kinds(self) -> set[str]:
        """The declared types, a number's one for integers too."""
        declared = self.schema.get("type", [])
        names = declared if isinstance(declared, list) else [declared]
        return {"number" if name == "integer" else str(name) for name in names}

    @functools.cached_property
    def constants(self) -> set[str] | None:
        """The values of `const` or `enum`; None if there is neither."""
        if "const" in self.schema:
            return {self._key(self.schema["const"])}
        return set(map(self._key, self.values("enum"))) if "enum" in self.schema else None

    def _key(self, value: Any) -> str:
        """The same text for values that schemas hold equal: 1 and 1.0, members in any order."""
        parsed = json.loads(self.as_json(value), parse_int=float)
        return json.dumps(parsed, sort_keys=True)

    @functools.cached_property
    def members(self) -> dict[str, _Node]:
        """The schemas of the required properties."""
        properties = _properties(self)
        names = [name for name in _required_names(self) if name in properties]
        return {name: self.inner(properties[name], "properties", name) for name in names}

    def _types(self) -> list[str]:
        """The declared types, or the one that the keywords imply."""
        if "type" not in self.schema:
            implied = [t for t in TYPES if self.schema.keys() & set(KEYWORDS_OF.get(t, ()))]
            if not implied:
                raise self.refuse("allows any value", "Give a schema with a type.")
            return implied[:1]
        declared = self.schema["type"]
        names = declared if isinstance(declared, list) else [declared]
        unknown = [name for name in names if name not in TYPES]
        if unknown or not names:
            raise self.refuse(
                f"has no such type {short_repr(unknown)}",
                f"Use {', '.join(TYPES)}.",
            )
        return names

    def _of_type(self, names: list[str]) -> Language:
        """The values of these types; of any form where other keywords say which there are."""
        own = {key for name in names for key in KEYWORDS_OF.get(name, ())}
        has_values = bool(self.schema.keys() & set(SAY_VALUES))
        if has_values and not self.schema.keys() & own:
            return Either(tuple(_ANY_FORM[name] for name in names))
        return Either(tuple(_TYPES[name](self) for name in names))


# One function for each type
# --------------------------


def _object(node: _Node) -> Language:
    """Every property, in the order in which they are declared."""
    schema = node.schema
    properties = _properties(node)
    undeclared = [name for name in _required_names(node) if name not in properties]
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
            node.inner(inner, "properties", name).language(),
        )
        for name, inner in properties.items()
    ]
    return joined("{", *_separated(members), "}")


def _properties(node: _Node) -> Mapping[str, Any]:
    properties = node.schema.get("properties", {})
    if not isinstance(properties, dict):
        raise node.refuse("has properties that are not an object")
    return properties


def _required_names(node: _Node) -> list[str]:
    names = node.values("required")
    if not all(isinstance(name, str) for name in names):
        raise node.refuse("has required that is not a list of names")
    return names


def _separated(members: Iterable[Language]) -> list[Language]:
    """The members with commas in between."""
    parts: list[Language] = []
    for member in members:
        parts += [literal(", "), member] if parts else [member]
    return parts


def _array(node: _Node) -> Language:
    """The items of `prefixItems`, then as many of `items` as the bounds allow."""
    schema = node.schema
    first = node.values("prefixItems")
    least, most = _counts(node, "minItems", "maxItems")
    members = [node.inner(inner, "prefixItems", i).language() for i, inner in enumerate(first)]
    item = schema.get("items", False)
    if item is False or most == len(first):
        if "items" not in schema and not first and most != 0:
            raise node.refuse("does not say what its items are", "Give items.")
        _check_count(node, len(first), "minItems", "maxItems")
        return joined("[", *_separated(members), "]")
    inner = node.inner(item, "items").language()
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


def _string(node: _Node) -> Language:
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
    inner = functools.reduce(Both, map(in_json_string, parts))
    return joined('"', inner, '"')


def _counts(node: _Node, least_name: str, most_name: str) -> tuple[int, int | None]:
    """The bounds of a length or a number of items."""
    least = _count(node, least_name) or 0
    most = _count(node, most_name)
    if most is not None and most < least:
        raise node.refuse(f"has {least_name} above {most_name}", "Correct them.")
    return least, most


def _count(node: _Node, name: str) -> int | None:
    """The value of a keyword that counts; None if it is not there."""
    if name not in node.schema:
        return None
    value = node.schema[name]
    if not _is_number(value) or value != int(value) or value < 0:
        raise node.refuse(f"has a {name} that is no count", "Give a whole number.")
    return int(value)


def _check_count(node: _Node, count: int, least_name: str, most_name: str) -> None:
    """Refuse a fixed number of members that the bounds do not allow."""
    least, most = _counts(node, least_name, most_name)
    if count < least or (most is not None and count > most):
        what = f"declares {count}, which breaks {least_name} or {most_name}"
        raise node.refuse(what, "Declare as many as these allow.")


def _is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and (isinstance(value, int) or math.isfinite(value))


def _bounds(node: _Node) -> tuple[Bound | None, Bound | None]:
    """The tightest bounds of a number."""
    minimum = _bound(node, "minimum")
    above = _bound(node, "exclusiveMinimum", is_open=True)
    maximum = _bound(node, "maximum")
    below = _bound(node, "exclusiveMaximum", is_open=True)
    low = max(
        filter(None, (minimum, above)),
        key=lambda bound: (bound.value, bound.open),
        default=None,
    )
    high = min(
        filter(None, (maximum, below)),
        key=lambda bound: (bound.value, not bound.open),
        default=None,
    )
    if low and high and low.value > high.value:
        raise node.refuse("has a minimum above its maximum", "Correct them.")
    return low, high


def _bound(node: _Node, name: str, is_open: bool = False) -> Bound | None:
    """The bound that a keyword gives; None if it is not there."""
    if name not in node.schema:
        return None
    value = node.schema[name]
    if not _is_number(value):
        raise node.refuse(f"has a {name} that is not a number", "Give a number.")
    return Bound(Decimal(repr(value)), is_open)


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
    "integer": whole_pattern(r"-?[0-9]+"),
    "number": whole_pattern(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?"),
}
"""By type, every JSON text that begins like one of its values."""
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
    name = node.text("$ref")
    if name in node.refs:
        what = f"refers to itself through {short_repr(name)}"
        raise node.refuse(what, "Recursive schemas have no bounded skeleton; unroll it.")
    inner = node.inner(_target(node, name), "$ref")
    return replace(inner, refs=(*node.refs, name)).language()


def _target(node: _Node, name: str) -> Any:
    """What a `$ref` of a node names. Raises `OptionError`."""
    document, _, pointer = name.partition("#")
    if document or not name:
        what = f"refers to another document: {short_repr(name)}"
        raise node.refuse(what, "Put it under $defs.")
    if pointer and not pointer.startswith("/"):
        what = f"refers to an anchor: {short_repr(name)}"
        raise node.refuse(what, "Write the $ref as #/$defs/NAME.")
    target = node.root
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            what = f"refers to nothing: {short_repr(name)}"
            raise node.refuse(what, "Name members of objects alone, as in #/$defs/NAME.")
        target = target[key]
    return target


def _options(node: _Node, keyword: str) -> list[_Node]:
    """The schemas in the list of a keyword."""
    schemas = node.values(keyword)
    if not schemas:
        raise node.refuse(f"has no options in {keyword}", "Give a list of schemas.")
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


def _const(node: _Node) -> Language:
    return literal(node.as_json(node.schema["const"]))


def _enum(node: _Node) -> Language:
    return Either(tuple(literal(node.as_json(value)) for value in node.values("enum")))


_PARTS: tuple[tuple[str, Callable[[_Node], Language]], ...] = (
    ("$ref", _reference),
    ("allOf", _all_of),
    ("anyOf", _any_of),
    ("oneOf", _one_of),
    ("const", _const),
    ("enum", _enum),
)


def _are_disjoint(one: _Node, other: _Node) -> bool:
    """Whether two schemas surely have no instance in common: other types, other constants, or a
    required property with other constants.
    """
    one.budget.spend(COMPARISONS)
    one, other = one.behind_refs, other.behind_refs
    if one.kinds and other.kinds and not one.kinds & other.kinds:
        return True
    if one.constants is not None and other.constants is not None:
        return one.constants.isdisjoint(other.constants)
    both_objects = one.kinds == other.kinds == {"object"}
    shared = one.members.keys() & other.members.keys() if both_objects else ()
    return any(_are_disjoint(one.members[name], other.members[name]) for name in shared)
