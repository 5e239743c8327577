"""The command decoders."""

from __future__ import annotations

import typer

from creditdecoding.cli.app import Json, app
from creditdecoding.cli.render import print_json


@app.command()
def decoders(as_json: Json = False) -> None:
    """List the decoders, their rules and their knobs."""
    from creditdecoding.decoders import describe, names

    descriptions = [describe(name) for name in names()]
    if as_json:
        print_json(descriptions)
        return
    for decoder in descriptions:
        typer.secho(decoder["name"], bold=True, nl=False)
        typer.echo(f"  {decoder['rule']}")
        for knob in decoder["knobs"]:
            allowed = f" ({knob['allowed']})" if knob["allowed"] else ""
            typer.echo(f"    {knob['name']} = {knob['default']}{allowed}: {knob['help']}")
