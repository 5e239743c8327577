"""Declared options: dataclass fields with help and bounds.

Validation, command-line flags and documentation are made from the declarations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from creditdecoding.errors import OptionError, unknown_name

C = TypeVar("C")
StrPath = str | os.PathLike[str]
"""A path as users give one."""

MAX_NUMBER = 2**63
"""No number may be this large: a tensor could not hold it."""

_BOUNDS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le}
_RETRY = "Change the value and try again."
_TYPE_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a finite number",
    "str": "text",
    "tuple": "a list of texts",
    "None": "none",
}


def option(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] | None = None,
    short: str | None = None,
    knobs: tuple[str, ...] = (),
    rare: bool = False,
    default_help: str | None = None,
) -> Any:
    """A dataclass field with help text and bounds: `ge` <= value, `gt` < value, value <= `le`.

    `choices` are the allowed values of a text. On the command line the flag may have a `short`
    name, and `knobs` of a spec such as NAME:knob=value may have their own flags; `rare` flags are
    shown by --help-all alone. `default_help` says what holds by default where the default does not.
    """
    metadata = {
        "help": help,
        "ge": ge,
        "gt": gt,
        "le": le,
        "choices": choices,
        "short": short,
        "knobs": knobs,
        "rare": rare,
        "default_help": default_help,
    }
    return dataclasses.field(default=default, metadata=metadata)


def type_names(field: dataclasses.Field[Any]) -> list[str]:
    """The names of the types that a field declares: `int | None` -> ["int", "None"].

    Names, not types, because annotations in a user's decoder file may not resolve.
    """
    is_plain_class = isinstance(field.type, type) and not hasattr(field.type, "__args__")
    text = field.type.__name__ if is_plain_class else str(field.type)  # type: ignore[union-attr]
    return text.replace("typing.", "").replace(" ", "").split("|")


def bounds_text(field: dataclasses.Field[Any]) -> str:
    """The allowed values of an option, such as "0 < alpha <= 1"; empty if there are no bounds."""
    choices, ge, gt, le = (field.metadata.get(key) for key in ("choices", "ge", "gt", "le"))
    if choices:
        return " | ".join(choices)
    text = field.name
    if ge is not None:
        text = f"{ge} <= {text}"
    elif gt is not None:
        text = f"{gt} < {text}"
    if le is not None:
        text = f"{text} <= {le}"
    return "" if text == field.name else text


def check_fields(config: Any) -> None:
    """Check the type and bounds of every field of a dataclass. Raises `OptionError`."""
    for declared in _declared_fields(config.__class__):
        value = getattr(config, declared.field.name)
        if value is None and declared.may_be_none:
            continue
        _check_type(declared, value)
        if not declared.is_inside(value):
            raise OptionError(
                f"{declared.field.name} is out of range",
                given=value,
                allowed=bounds_text(declared.field),
                hint=_RETRY,
            )


@dataclasses.dataclass(frozen=True)
class _DeclaredField:
    """A field with what it allows: the names of its types, its choices and its bounds."""

    field: dataclasses.Field[Any]
    names: tuple[str, ...]
    choices: tuple[str, ...]
    bounds: tuple[tuple[Callable[[Any, Any], bool], float], ...]

    @functools.cached_property
    def may_be_none(self) -> bool:
        """Whether None is a value."""
        return "None" in self.names

    @functools.cached_property
    def matches(self) -> tuple[Callable[[Any], bool], ...]:
        """Tests of which a value passes one."""
        bare = [name.partition("[")[0] for name in self.names]
        return tuple(_MATCHES[name] for name in bare if name in _MATCHES)

    def is_inside(self, value: Any) -> bool:
        """Whether a value is one of the choices and within the bounds."""
        if self.choices and value not in self.choices:
            return False
        return all(compare(value, bound) for compare, bound in self.bounds)


@functools.lru_cache(maxsize=256)
def _declared_fields(cls: type[Any]) -> tuple[_DeclaredField, ...]:
    """The fields of a dataclass, looked at once."""
    return tuple(
        _DeclaredField(
            field=field,
            names=tuple(type_names(field)),
            choices=tuple(field.metadata.get("choices") or ()),
            bounds=tuple(
                (compare, field.metadata[key])
                for key, compare in _BOUNDS.items()
                if field.metadata.get(key) is not None
            ),
        )
        for field in dataclasses.fields(cls)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_MATCHES: dict[str, Callable[[Any], bool]] = {
    "Any": lambda value: True,
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: _is_number(value) and math.isfinite(value),
    "str": lambda value: isinstance(value, str),
    "tuple": lambda value: isinstance(value, tuple),
}
"""Whether a value has a type, by the type's name."""


def _check_type(declared: _DeclaredField, value: Any) -> None:
    field = declared.field
    if _is_number(value) and abs(value) >= MAX_NUMBER:
        raise OptionError(
            f"{field.name} is out of range",
            given=str(value)[:40],
            allowed="numbers below 2**63 in size",
            hint=_RETRY,
        )
    if not any(matches(value) for matches in declared.matches):
        raise OptionError(
            f"{field.name} has {'no value' if value is None else 'the wrong type'}",
            given=value,
            allowed=bounds_text(field) if declared.choices else _words(declared.names),
            hint=_RETRY,
        )


def _words(names: Sequence[str]) -> str:
    """The names of types in plain English."""
    bare = [name.partition("[")[0] for name in names]
    return " or ".join(_TYPE_WORDS.get(name, name) for name in bare)


def from_mapping(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build the dataclass `cls` from `values`.

    Raises `OptionError` for a name that it does not declare, with the nearest one.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown_name(f"option of {cls.__name__}", name, known)
    return cls(**values)


def split_spec(text: str, noun: str) -> tuple[str, dict[str, str]]:
    """Split `name:knob=value,knob=value` into the name and the texts of its knobs. The name may be
    the path of a Python file, in which colons may stand.

    Raises `OptionError`; `noun` is what the name names.
    """
    path = re.match(r"(.+?\.py)(?=:|$)", text, re.IGNORECASE)
    name = path[1] if path else text.partition(":")[0]
    tail = text[len(name) + 1 :]
    knobs: dict[str, str] = {}
    for part in filter(None, tail.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise OptionError(
                f"a {noun} option without a value",
                given=part,
                allowed="knob=value",
                hint=f"Write it as {name}:{key}=VALUE.",
            )
        key = key.strip()
        if key in knobs:
            raise OptionError(f"{key} is given twice", given=text, hint="Give it once.")
        knobs[key] = value.strip()
    return name, knobs


def parse_values(cls: type[Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Convert texts to the types that the fields of `cls` declare. Raises `OptionError`.

    Unknown names stay texts, for `from_mapping` to refuse.
    """
    declared = {field.name: type_names(field) for field in dataclasses.fields(cls)}
    return {name: _parse(name, text, declared.get(name, ["str"])) for name, text in texts.items()}


def _parse(name: str, text: str, declared: list[str]) -> Any:
    if "None" in declared and text.lower() in ("none", "null"):
        return None
    if "bool" in declared and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "int" not in declared and "float" not in declared:
        return text
    try:
        return int(text) if "int" in declared else float(text)
    except ValueError as error:
        raise OptionError(
            f"{name} is not a number", given=text, allowed=_words(declared), hint=_RETRY
        ) from error
