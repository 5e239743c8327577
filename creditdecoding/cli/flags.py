"""Option dataclasses as command line flags: one flag a field, help and choices from its metadata."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from creditdecoding.options import from_mapping, type_names

_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "Any": str}
_Threshold = Annotated[
    float | None, typer.Option(help="Short for --decoder NAME:threshold=VALUE.", show_default=False)
]


def _flag(field: dataclasses.Field[Any], panel: str) -> inspect.Parameter:
    """A command line flag for one option field."""
    first = type_names(field)[0]
    many = first.startswith("tuple")
    kind: Any = list[str] if many else _TYPES[first]
    default: Any = list(field.default) if many else field.default  # type: ignore[arg-type]
    choices = field.metadata["choices"]
    text = field.metadata["help"] + (f" One of: {', '.join(choices)}." if choices else "")
    names: tuple[str, ...] = (f"--{field.name.replace('_', '-')}",)
    if kind is bool:
        names = (f"{names[0]}/--no-{names[0][2:]}",)
    elif field.name == "decoder":
        names = (*names, "-d")
    annotation: Any = Annotated[
        kind if default is not None else kind | None,
        typer.Option(*names, help=text, rich_help_panel=panel),
    ]  # type: ignore[valid-type]
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def with_options(**classes: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for every field of each dataclass; it receives the built objects under
    the keyword's names.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            p
            for p in inspect.signature(command, eval_str=True).parameters.values()
            if p.name not in classes
        ]
        flags = {
            name: [_flag(f, f"{name} options") for f in dataclasses.fields(cls)]
            for name, cls in classes.items()
        }
        extra = (
            [
                inspect.Parameter(
                    "threshold", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Threshold
                )
            ]
            if "generation" in flags
            else []
        )

        @functools.wraps(command)
        def run(**given: Any) -> None:
            threshold = given.pop("threshold", None) if extra else None
            for name, cls in classes.items():
                values = {f.name: given.pop(f.name) for f in flags[name]}
                values = {
                    key: tuple(value) if isinstance(value, list) else value
                    for key, value in values.items()
                }
                if name == "generation" and threshold is not None:
                    values["decoder"] += (
                        f"{',' if ':' in values['decoder'] else ':'}threshold={threshold}"
                    )
                given[name] = from_mapping(cls, values)
            command(**given)

        parameters = (
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
            + extra
            + [f for each in flags.values() for f in each]
        )
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate
