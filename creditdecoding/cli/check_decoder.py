"""The command check-decoder."""

from __future__ import annotations

from typing import Annotated

import typer

from creditdecoding.cli.app import Json, app
from creditdecoding.cli.render import print_json


@app.command("check-decoder")
def check_decoder(
    decoder: Annotated[
        str, typer.Argument(help="A Python file or a name, with knobs if you like: mine.py:k=2.")
    ],
    cases: Annotated[int, typer.Option(help="Random cases for each law.", min=1)] = 24,
    as_json: Json = False,
) -> None:
    """Check the laws that every decoder keeps, for one of your own.

    A line for each law, tried on random cases. Knobs are tried at their values and at the ends of
    their ranges. The exit status is 1 if a law is broken.

    Examples:
        credit check-decoder mine.py
        credit check-decoder mine.py:k=2 --cases 100
    """
    from creditdecoding.decoders import load
    from creditdecoding.decoders._laws import LAWS, broken

    rule, _ = load(decoder)
    problems = {}
    for law in LAWS:
        problems[law.name] = broken(law, rule, cases)
        if not as_json:
            typer.echo(_line(law.sentence, problems[law.name]))
    if as_json:
        print_json({"decoder": decoder, "laws": problems})
    failed = sum(problem is not None for problem in problems.values())
    if failed:
        typer.echo(f"{decoder} breaks {failed} of {len(LAWS)} laws", err=True)
        raise typer.Exit(1)


def _line(sentence: str, problem: str | None) -> str:
    return f"kept    {sentence}." if problem is None else f"BROKEN  {sentence}: {problem}"
