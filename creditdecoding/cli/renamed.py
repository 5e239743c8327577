"""Commands under their earlier names: hidden from the help, and they say the new name in a line."""

from __future__ import annotations

from typing import Any

import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.help import CreditCommand
from creditdecoding.errors import OptionError


def renamed_to(name: str) -> type[CreditCommand]:
    """A command class that says on standard error that the command is now called `name`."""

    class RenamedCommand(CreditCommand):
        def invoke(self, ctx: Any) -> Any:
            typer.echo(f"credit {ctx.info_name} is now called credit {name}", err=True)
            return super().invoke(ctx)

    return RenamedCommand


@app.command(
    hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def drift() -> None:
    """Now a part of speedups."""
    raise OptionError(
        "caches are compared by credit speedups",
        given="credit drift",
        hint='Run: credit speedups --settings cache --decoders "threshold credit".',
    )
