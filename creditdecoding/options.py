"""Declared options: a dataclass field with help and bounds, from which checks, flags and docs are
made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from creditdecoding.errors import OptionError, unknown_name

C = TypeVar("C")


MAX_NUMBER = 2**63  # of any number: what a tensor can hold


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
) -> Any:
    """A dataclass field with its help text and bounds (`ge` <= value, `gt` < value, value <= `le`,
    or one of `choices`).

    On the command line the flag may have a `short` name, and `knobs` of a spec such as
    NAME:knob=value may have flags of their own.
    """
    metadata = {
        "help": help,
        "ge": ge,
        "gt": gt,
        "le": le,
        "choices": choices,
        "short": short,
        "knobs": knobs,
    }
    return dataclasses.field(default=default, metadata=metadata)


def type_names(field: dataclasses.Field[Any]) -> list[str]:
    """The names of the types a field declares, whether its module postpones annotations or not:
    `int | None` -> [int, None].
    """
    given = (
        field.type.__name__
        if isinstance(field.type, type) and not hasattr(field.type, "__args__")
        else str(field.type)
    )
    return given.replace("typing.", "").replace(" ", "").split("|")


def bounds_text(field: dataclasses.Field[Any]) -> str:
    """The bounds of an option in words, empty where it has none."""
    meta = field.metadata
    if meta.get("choices"):
        return " | ".join(meta["choices"])
    low = (
        f"{meta['ge']} <= "
        if meta.get("ge") is not None
        else f"{meta['gt']} < "
        if meta.get("gt") is not None
        else ""
    )
    high = f" <= {meta['le']}" if meta.get("le") is not None else ""
    return f"{low}{field.name}{high}" if low or high else ""


def check_fields(config: Any) -> None:
    """Hold every field of the dataclass `config` to its declared type and bounds. Raises
    `OptionError`.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None and "None" in type_names(field):
            continue
        _check_type(field, value)
        meta = field.metadata
        bad = (
            (meta.get("choices") and value not in meta["choices"])
            or (meta.get("ge") is not None and not value >= meta["ge"])
            or (meta.get("gt") is not None and not value > meta["gt"])
            or (meta.get("le") is not None and not value <= meta["le"])
        )
        if bad:
            raise OptionError(
                f"{field.name} is out of range",
                given=value,
                allowed=bounds_text(field),
                hint="Change the value and try again.",
            )


def _check_type(field: dataclasses.Field[Any], value: Any) -> None:
    names = type_names(field)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and abs(value) >= MAX_NUMBER:
        raise OptionError(
            f"{field.name} is out of range",
            given=str(value)[:40],
            allowed="what 64 bits hold",
            hint="Change the value and try again.",
        )
    fine = (
        "Any" in names
        or ("bool" in names and isinstance(value, bool))
        or ("int" in names and is_number and isinstance(value, int))
        or ("float" in names and is_number and math.isfinite(value))
        or ("str" in names and isinstance(value, str))
        or (any(name.startswith("tuple") for name in names) and isinstance(value, tuple))
    )
    if not fine:
        raise OptionError(
            f"{field.name} has the wrong type",
            given=value,
            allowed=" | ".join(names),
            hint="Change the value and try again.",
        )


def from_mapping(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build the dataclass `cls` from `values`; a name it does not declare raises `OptionError` with
    the nearest one.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown_name(f"option of {cls.__name__}", name, known)
    return cls(**values)


def split_spec(text: str, noun: str) -> tuple[str, dict[str, str]]:
    """`name:knob=value,knob=value` as the name and the texts of its knobs. Raises `OptionError`;
    `noun` says what is named.
    """
    name, _, tail = text.partition(":")
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
        knobs[key.strip()] = value.strip()
    return name, knobs


def parse_values(cls: type[Any], knobs: Mapping[str, str]) -> dict[str, Any]:
    """The texts of `knobs` as the types that the fields of `cls` declare; unknown names pass
    through to be refused by name.
    """
    declared = {field.name: type_names(field) for field in dataclasses.fields(cls)}
    return {key: _convert(key, value, declared.get(key, ["str"])) for key, value in knobs.items()}


def _convert(key: str, value: str, declared: list[str]) -> Any:
    if "None" in declared and value.lower() in ("none", "null"):
        return None
    if "bool" in declared and value.lower() in ("true", "false"):
        return value.lower() == "true"
    for name, convert in (("int", int), ("float", float)):
        if name in declared:
            try:
                return convert(value)
            except ValueError as error:
                raise OptionError(
                    f"{key} is not a number",
                    given=value,
                    allowed=" | ".join(declared),
                    hint="Change the value and try again.",
                ) from error
    return value
