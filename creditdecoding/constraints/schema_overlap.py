"""Whether the options of a `oneOf` can have an instance in common."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from creditdecoding.constraints.schema_node import COMPARISONS, MAX_DEPTH, SchemaNode


def check_disjoint(node: SchemaNode, options: Sequence[SchemaNode]) -> None:
    """Raises `OptionError` for options of a node's oneOf that may have an instance in common."""
    for one, other in itertools.combinations(map(_Compared, options), 2):
        if not _are_disjoint(one, other):
            raise node.refuse(
                "has a oneOf whose options may overlap",
                "Use anyOf, or tell them apart by type or a const property.",
            )


@dataclass(frozen=True)
class _Compared:
    """What a comparison of a schema with another one asks for, made once."""

    node: SchemaNode

    @functools.cached_property
    def behind_refs(self) -> _Compared:
        """What this schema's `$ref` names, if it has one and is an object; else the schema."""
        node = self.node
        for _ in range(MAX_DEPTH):
            if not isinstance(node.schema, dict) or "$ref" not in node.schema:
                break
            node = node.inner(node.target(node.text("$ref")), "$ref")
        return _Compared(node if isinstance(node.schema, dict) else replace(node, schema={}))

    @functools.cached_property
    def kinds(self) -> set[str]:
        """The declared types, or else those of the constants; a number's one for integers too."""
        constants = [] if self.constants is None else map(json.loads, self.constants)
        declared = self.node.schema.get("type", [type_of(value) for value in constants])
        names = declared if isinstance(declared, list) else [declared]
        return {"number" if name == "integer" else str(name) for name in names}

    @functools.cached_property
    def constants(self) -> set[str] | None:
        """The values of `const` or `enum`; None if there is neither."""
        schema = self.node.schema
        if "const" in schema:
            return {self._key(schema["const"])}
        return set(map(self._key, self.node.values("enum"))) if "enum" in schema else None

    def _key(self, value: object) -> str:
        """The same text for values that schemas hold equal: 1 and 1.0, members in any order."""
        parsed = json.loads(self.node.as_json(value), parse_int=float)
        return json.dumps(parsed, sort_keys=True)

    @functools.cached_property
    def members(self) -> dict[str, _Compared]:
        """The schemas of the required properties."""
        properties = self.node.properties()
        names = [name for name in self.node.required_names() if name in properties]
        inner = {name: self.node.inner(properties[name], "properties", name) for name in names}
        return {name: _Compared(node) for name, node in inner.items()}


def type_of(value: object) -> str:
    """The type of a JSON value, read from text."""
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", float: "number", list: "array", dict: "object", type(None): "null"}
    return names[type(value)]


def _are_disjoint(one: _Compared, other: _Compared) -> bool:
    """Whether two schemas surely have no instance in common: other types, other constants, or a
    required property with other constants.
    """
    one.node.budget.spend(COMPARISONS)
    one, other = one.behind_refs, other.behind_refs
    if one.kinds and other.kinds and not one.kinds & other.kinds:
        return True
    if one.constants is not None and other.constants is not None:
        return one.constants.isdisjoint(other.constants)
    both_objects = one.kinds == other.kinds == {"object"}
    shared = one.members.keys() & other.members.keys() if both_objects else ()
    return any(_are_disjoint(one.members[name], other.members[name]) for name in shared)
