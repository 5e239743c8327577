"""The group `credit pav`, which its commands add themselves to."""

from __future__ import annotations

from creditdecoding.cli.app import app
from creditdecoding.cli.help import CreditGroup, CreditTyper

pav = CreditTyper(
    cls=CreditGroup,
    help="""Process advantage verifiers: what a step of an answer is worth.

    Examples:
        credit pav collect labels.jsonl --tasks arithmetic --limit 8
        credit pav train labels.jsonl --out verifier
    """,
    no_args_is_help=True,
)
app.add_typer(pav, name="pav")
