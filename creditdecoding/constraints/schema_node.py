"""A schema inside of a whole one: its place, its keywords, and what its `$ref` names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from creditdecoding.constraints.budget import Budget
from creditdecoding.constraints.schema_keywords import KEYWORDS_OF, SAY_VALUES, TYPED, TYPES
from creditdecoding.errors import OptionError, short_repr

MAX_DEPTH = 64
"""Levels of a schema, references included."""
SCHEMAS = "schemas (what a $ref names counts again at each of them)"
COMPARISONS = "pairs of options of oneOf"
CHARACTERS = "characters of names, constants and patterns"
LIMITS = {
    SCHEMAS: 2_000,
    COMPARISONS: 100_000,
    CHARACTERS: 100_000,
}
"""The work of one schema, with all that it refers to."""


def json_text(value: Any) -> str:
    """A JSON value as instances write it. Raises `OptionError` for what JSON does not have."""
    try:
        text = json.dumps(_with_integers(value), ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError as error:
        what = "a value of the schema is no JSON (NaN, infinity or half of a surrogate pair)"
        raise OptionError(what, hint="Correct it.") from error
    return text


def _with_integers(value: Any) -> Any:
    """An equal value with integers for whole numbers: 1.0 is written 1, which has either type."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return list(map(_with_integers, value))
    if isinstance(value, dict):
        return {name: _with_integers(inner) for name, inner in value.items()}
    return value


@dataclass(frozen=True)
class SchemaNode:
    """A schema inside of the whole one (`root`); `path` says where, `refs` behind which `$ref`s."""

    schema: Any
    root: Any
    path: str
    budget: Budget
    refs: tuple[str, ...] = ()
    depth: int = 0

    def inner(self, schema: Any, *path: str | int) -> SchemaNode:
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

    def properties(self) -> Mapping[str, Any]:
        """The declared properties; empty if there are none."""
        properties = self.schema.get("properties", {})
        if not isinstance(properties, dict):
            raise self.refuse("has properties that are not an object")
        return properties

    def required_names(self) -> list[str]:
        """The names of `required`; empty if it is not there."""
        names = self.values("required")
        if not all(isinstance(name, str) for name in names):
            raise self.refuse("has required that is not a list of names")
        return names

    def types(self) -> list[str]:
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

    def is_written_by_type(self) -> bool:
        """Whether the type says how values are written, not `$ref`, `const` and the like alone."""
        keys = self.schema.keys()
        if not keys & set(SAY_VALUES):
            return True
        names = self.types() if keys & TYPED else []
        return any(keys & set(KEYWORDS_OF.get(name, ())) for name in names)

    def target(self, name: str) -> Any:
        """What a `$ref` of this schema names. Raises `OptionError`."""
        document, _, pointer = name.partition("#")
        if document or not name:
            what = f"refers to another document: {short_repr(name)}"
            raise self.refuse(what, "Put it under $defs.")
        if pointer and not pointer.startswith("/"):
            what = f"refers to an anchor: {short_repr(name)}"
            raise self.refuse(what, "Write the $ref as #/$defs/NAME.")
        target = self.root
        for part in unquote(pointer).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or key not in target:
                what = f"refers to nothing: {short_repr(name)}"
                raise self.refuse(what, "Name members of objects alone, as in #/$defs/NAME.")
            target = target[key]
            if isinstance(target, dict) and isinstance(target.get("$id", target.get("id")), str):
                what = f"refers into a schema with an $id of its own: {short_repr(name)}"
                raise self.refuse(what, "Drop that $id: every $ref starts at the root.")
        return target
