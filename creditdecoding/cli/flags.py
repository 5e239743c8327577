"""Command line flags made from option dataclasses: one for each field, with help and choices."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from creditdecoding.options import from_mapping, split_spec, type_names

PANELS = {
    "default": "Defaults for requests",
    "engine": "Model and machine",
    "generation": "Decoding",
    "http": "HTTP",
    "options": "Options",
    "rl": "RL",
}
"""Headings of the help page by the name of an option class's argument."""

_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "Any": str}
_typed: ContextVar[frozenset[str]] = ContextVar("typed", default=frozenset())


def typed_options() -> frozenset[str]:
    """The parameters of the running command that its user gave, also in a file of --config, even
    if given the default value.
    """
    return _typed.get()


def with_options(**classes: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for every field of these dataclasses.

    The command receives the objects built from the flags as keyword arguments of the same names.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = _parameters(command, classes)

        @functools.wraps(command)
        def run(context: typer.Context, **arguments: Any) -> None:
            sources = {name: context.get_parameter_source(name) for name in arguments}
            _typed.set(frozenset(n for n, source in sources.items() if _is_typed(source)))
            for name, cls in classes.items():
                arguments[name] = _build(cls, arguments)
            command(**arguments)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameters(
    command: Callable[..., None], classes: Mapping[str, type[Any]]
) -> list[inspect.Parameter]:
    """The context, the command's own parameters, and a flag for every field of the classes."""
    parameters = [_keyword("context", typer.Context)]
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name not in classes:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    for name, cls in classes.items():
        for field in dataclasses.fields(cls):
            parameters += _flags(field, PANELS.get(name, name.capitalize()))
    return parameters


def _keyword(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _is_typed(source: Any) -> bool:
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def _flags(field: dataclasses.Field[Any], panel: str) -> list[inspect.Parameter]:
    """The flag of an option, and the flags of those knobs of its spec that have one."""
    type_name = type_names(field)[0]
    is_list = type_name.startswith("tuple")
    value_type: Any = list[str] if is_list else _TYPES[type_name]
    default: Any = list(field.default) if is_list else field.default  # type: ignore[arg-type]
    flag = f"--{field.name.replace('_', '-')}"
    names = [f"{flag}/--no-{flag[2:]}" if value_type is bool else flag]
    if field.metadata.get("short"):
        names.append(field.metadata["short"])
    help = field.metadata["help"]
    if field.metadata["choices"]:
        help += f" One of: {', '.join(field.metadata['choices'])}."
    default_help = field.metadata["default_help"]
    if default_help:
        help += f"  [default: {default_help}]"
    if default is None:
        value_type = value_type | None
    option = typer.Option(
        *names,
        help=help,
        rich_help_panel=panel,
        show_default=default is not False and not default_help,
        hidden=field.metadata.get("rare", False),
    )
    flags = [_keyword(field.name, Annotated[value_type, option], default)]
    for knob in _knobs(field):
        help = f"Short for {flag} NAME:{knob}=VALUE."
        option = typer.Option(help=help, rich_help_panel=panel, show_default=False)
        flags.append(_keyword(knob, Annotated[float | None, option], None))
    return flags


def _knobs(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Knobs of a spec that have flags; none if the option has no spec by default."""
    return field.metadata.get("knobs", ()) if field.default is not None else ()


def _with_knob(spec: str, knob: str, value: float) -> str:
    """The spec with this value of a knob, in place of the one it may have."""
    name, knobs = split_spec(spec, "decoder")
    texts = [f"{key}={text}" for key, text in {**knobs, knob: value}.items()]
    return f"{name}:{','.join(texts)}"


def _build(cls: type[Any], arguments: dict[str, Any]) -> Any:
    """The options object of class `cls`; its flags are removed from `arguments`."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value = arguments.pop(field.name)
        for knob in _knobs(field):
            knob_value = arguments.pop(knob)
            if knob_value is not None:
                value = _with_knob(value, knob, knob_value)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return from_mapping(cls, values)
