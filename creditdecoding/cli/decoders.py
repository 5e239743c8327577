"""The command decoders."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, app
from creditdecoding.cli.render import print_json
from creditdecoding.errors import CreditError


@app.command()
def decoders(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show this decoder alone: a name, or a file mine.py.", show_default=False
        ),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also list the controls of credit, which compare offers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the decoders, their rules and their knobs.

    Examples:
        credit decoders
        credit decoders credit
        credit decoders mine.py
    """
    from creditdecoding.decoders import describe, shared_knobs

    if name is None:
        descriptions = _describe_all(show_all)
    else:
        descriptions = [{**describe(name), "shared_knobs": shared_knobs(name)}]
    if as_json:
        print_json(descriptions)
        return
    for decoder in descriptions:
        typer.secho(decoder["name"], bold=True, nl=False)
        typer.echo(f"  {decoder['rule']}")
        _print_knobs(decoder["knobs"])
        if decoder.get("shared_knobs"):
            typer.echo("  As any rule that only writes masks of its block, it also takes:")
            _print_knobs(decoder["shared_knobs"])


def _print_knobs(knobs: list[dict[str, Any]]) -> None:
    for knob in knobs:
        allowed = f" ({knob['allowed']})" if knob["allowed"] else ""
        typer.echo(f"    {knob['name']} = {knob['default']}{allowed}: {knob['help']}")


def _describe_all(controls: bool) -> list[dict[str, Any]]:
    """Every decoder that can be loaded; those of broken packages are named on standard error."""
    from creditdecoding.decoders import describe, names

    descriptions = []
    for name in names(controls):
        try:
            descriptions.append(describe(name))
        except CreditError as error:
            typer.echo(f"warning: {error}", err=True)
    return descriptions
