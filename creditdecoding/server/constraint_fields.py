"""The fields by which clients constrain an answer, OpenAI's and vLLM's, as one constraint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from creditdecoding.constraints.constraint import (
    Constraint,
    choice,
    json_schema,
    regex,
)
from creditdecoding.errors import (
    OptionError,
    blame_param,
    unknown_name,
)
from creditdecoding.server.admission import check_json_text

_SCHEMA_FIELDS = (
    "name",
    "description",
    "schema",
    "strict",
)


def constraint_of(
    body: Any,
) -> tuple[str, Constraint] | None:
    """The field that constrains the answers of a body, and how. Raises `OptionError`."""
    constraints: dict[str, Constraint] = {}
    for name, read in _READERS.items():
        value = getattr(body, name)
        if value is not None:
            with blame_param(name):
                constraint = read(value)
            if constraint is not None:
                constraints[name] = constraint
    if len(constraints) > 1:
        fields = list(constraints)
        hint = "Give one of them."
        raise OptionError(
            f"{' and '.join(fields)} exclude each other",
            hint=hint,
            param=fields[0],
        )
    return next(iter(constraints.items()), None)


def _response_format(
    value: Mapping[str, Any],
) -> Constraint | None:
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        raise OptionError(
            "json_object is not supported: JSON of any shape has no bounded skeleton",
            hint='Use {"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}.',
        )
    if kind != "json_schema":
        raise unknown_name(
            "type of response_format",
            str(kind),
            ("text", "json_schema"),
        )
    wrapped = value.get("json_schema")
    if not isinstance(wrapped, dict) or not isinstance(wrapped.get("schema"), dict):
        hint = 'Send "json_schema": {"name": ..., "schema": {...}}.'
        raise OptionError("response_format has no schema", hint=hint)
    for name in wrapped:
        if name not in _SCHEMA_FIELDS:
            raise unknown_name(
                "field of json_schema",
                str(name),
                _SCHEMA_FIELDS,
            )
    return json_schema(wrapped["schema"])


def _schema(value: Any) -> Constraint:
    """A schema, or one as JSON text."""
    if isinstance(value, str):
        check_json_text(value.encode(errors="replace"), "schema")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise OptionError(
                f"the schema is no JSON ({error})",
                hint="Correct it.",
            ) from error
    if not isinstance(value, dict):
        raise OptionError(
            "the schema is not an object",
            hint="Send a JSON schema.",
        )
    return json_schema(value)


def _structured_outputs(value: Mapping[str, Any]) -> Constraint:
    """vLLM's object with one of `json`, `regex` and `choice`."""
    parts = {name: part for name, part in value.items() if part is not None and part is not False}
    for name in parts:
        if name not in _OUTPUTS:
            raise unknown_name(
                "kind of structured output",
                str(name),
                _OUTPUTS,
            )
    if not parts:
        raise OptionError(
            "structured_outputs asks for nothing",
            given=value,
            allowed=", ".join(_OUTPUTS),
            hint="Give one of them, or leave structured_outputs out.",
        )
    if len(parts) > 1:
        what = f"{' and '.join(parts)} exclude each other"
        raise OptionError(what, hint="Give one of them.")
    ((name, part),) = parts.items()
    return _OUTPUTS[name](part)


_OUTPUTS: dict[str, Callable[[Any], Constraint]] = {
    "json": _schema,
    "regex": regex,
    "choice": choice,
}
_READERS: dict[str, Callable[[Any], Constraint | None]] = {
    "response_format": _response_format,
    "guided_choice": choice,
    "guided_regex": regex,
    "guided_json": _schema,
    "structured_outputs": _structured_outputs,
}
CONSTRAINT_FIELDS = tuple(_READERS)
