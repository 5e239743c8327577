"""Commands that show what there is: info, decoders."""

from __future__ import annotations

import typer

from creditdecoding.cli.app import Json, Model, app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.render import print_json
from creditdecoding.config import EngineConfig


@app.command()
@with_options(engine=EngineConfig)
def info(model: Model = "pocket", as_json: Json = False, *, engine: EngineConfig) -> None:
    """Show what would be loaded: files, architecture, memory need, ids and defaults, without
    loading the weights.
    """
    from creditdecoding.lm import describe

    found = describe(model, engine)
    if as_json:
        print_json(found)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in found.items():
        if isinstance(value, dict):
            value = [f"{key} {one}" for key, one in value.items()]
        table.add_row(
            name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        )
    Console().print(table)


@app.command()
def decoders(as_json: Json = False) -> None:
    """List the decoders, their rules and their knobs."""
    from creditdecoding.decoders import describe, names

    found = [describe(name) for name in names()]
    if as_json:
        print_json(found)
        return
    for each in found:
        typer.secho(each["name"], bold=True, nl=False)
        typer.echo(f"  {each['rule']}")
        for knob in each["knobs"]:
            allowed = f" ({knob['allowed']})" if knob["allowed"] else ""
            typer.echo(f"    {knob['name']} = {knob['default']}{allowed}: {knob['help']}")
