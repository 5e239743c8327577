"""Whether the parts of a schema, which must hold together, write the same objects.

An object is written with what its schema declares, in that order. So objects of two schemas have no
text in common where they declare other properties, though an object with all of them would satisfy
both. Such schemas are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from creditdecoding.constraints.schema_node import SchemaNode
from creditdecoding.errors import short_repr

Skeletons: TypeAlias = frozenset[tuple[str, ...]]
"""The properties of each object that a schema writes, in their order."""


def check_skeletons(node: SchemaNode) -> None:
    """Raises `OptionError` if parts of a schema, each of which is readable, write other objects."""
    common: tuple[str, Skeletons] | None = None
    for path, skeletons in _parts(node):
        if not skeletons:
            continue
        if common and common[1].isdisjoint(skeletons):
            one, other = _shown(common[1]), _shown(skeletons)
            what = f"joins objects that differ: {common[0]} writes {one}, {path} writes {other}"
            raise node.refuse(what, "Declare the same properties in the same order in both.")
        common = (path, common[1] & skeletons if common else skeletons)


def _shown(skeletons: Skeletons) -> str:
    """One of the objects in an error."""
    return short_repr(list(min(skeletons)))


def _parts(node: SchemaNode) -> Iterator[tuple[str, Skeletons | None]]:
    """The objects of each part of a schema and where it stands; None: objects of any form."""
    schema = node.schema
    if "$ref" in schema:
        yield "$ref", _skeletons(node, node.target(schema["$ref"]))
    for i, option in enumerate(node.values("allOf")):
        yield f"allOf.{i}", _skeletons(node, option)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            yield keyword, _of_any([_skeletons(node, option) for option in node.values(keyword)])
    if "const" in schema:
        yield "const", _of_values([schema["const"]])
    if "enum" in schema:
        yield "enum", _of_values(node.values("enum"))
    if node.is_written_by_type():
        has_objects = "object" in node.types()
        yield "properties", frozenset([tuple(node.properties())] if has_objects else ())


def _skeletons(node: SchemaNode, schema: Any) -> Skeletons | None:
    """The objects of another schema, which was read before; None: objects of any form."""
    common: Skeletons | None = None
    for _, skeletons in _parts(replace(node, schema=schema)):
        if skeletons is not None:
            common = skeletons if common is None else common & skeletons
    return common


def _of_any(options: list[Skeletons | None]) -> Skeletons | None:
    """The objects of all options."""
    known = [skeletons for skeletons in options if skeletons is not None]
    return frozenset().union(*known) if len(known) == len(options) else None


def _of_values(values: list[Any]) -> Skeletons | None:
    """The properties of constants; None if some are no objects, which alone may be meant."""
    if not all(isinstance(value, dict) for value in values):
        return None
    return frozenset(tuple(value) for value in values)
