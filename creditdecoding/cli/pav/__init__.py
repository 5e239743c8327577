"""The commands `credit pav ...`: process advantage verifiers (docs/verifiers.md)."""

import typer

from creditdecoding.cli.app import app

pav = typer.Typer(
    help="Process advantage verifiers: what a step of an answer is worth.", no_args_is_help=True
)
app.add_typer(pav, name="pav")

from creditdecoding.cli.pav import collect, compare, measure, provers, rl, train  # noqa: E402, F401
