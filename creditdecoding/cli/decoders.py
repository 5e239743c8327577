"""The command decoders."""

from __future__ import annotations

from typing import Annotated

import typer

from creditdecoding.cli.app import Json, app
from creditdecoding.cli.render import print_json


@app.command()
def decoders(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this decoder alone.", show_default=False),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also list the controls of credit, which compare offers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the decoders, their rules and their knobs."""
    from creditdecoding.decoders import describe, names

    chosen_names = names(controls=show_all) if name is None else [name]
    descriptions = [describe(chosen_name) for chosen_name in chosen_names]
    if as_json:
        print_json(descriptions)
        return
    for decoder in descriptions:
        typer.secho(decoder["name"], bold=True, nl=False)
        typer.echo(f"  {decoder['rule']}")
        for knob in decoder["knobs"]:
            allowed = f" ({knob['allowed']})" if knob["allowed"] else ""
            typer.echo(f"    {knob['name']} = {knob['default']}{allowed}: {knob['help']}")
