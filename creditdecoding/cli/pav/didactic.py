"""The command pav didactic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, counting, print_json
from creditdecoding.cli.checks import drawable, writable
from creditdecoding.cli.pav import pav
from creditdecoding.flags import with_options
from creditdecoding.verifier.didactic.options import DidacticConfig


@pav.command()
@with_options(didactic=DidacticConfig)
def didactic(
    out: Annotated[
        Path | None, typer.Option(help="Keep runs and report in this JSON file; runs found there are not done again.", show_default=False)
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Also draw the figure into this file.", show_default=False)] = None,
    as_json: Json = False,
    *,
    didactic: DidacticConfig,
) -> None:
    """The paper's didactic task: does an effective reward learn a planted sub-sequence where the outcome does not (docs/didactic.md)?

    Every arm is run with every seed, arms with a prover with every strength. About four minutes on one thread as it stands.
    """
    from creditdecoding.verifier.didactic.report import report
    from creditdecoding.verifier.didactic.run import pursue, read, save

    drawable(png)
    writable(out, png)
    with counting("looks at runs, at most") as start:
        runs = pursue(didactic, out, start)
    found = report(didactic, runs)
    if out is not None:
        save(out, didactic, read(out, didactic), found)
    if png is not None:
        from creditdecoding.view.plot import didactic_png

        didactic_png(found, png)
    if as_json:
        print_json(found)
    else:
        _print(found)
    for path in (out, png):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)


def _print(found: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("arm", "prover", "solved", "50 %", "95 %", "solved after", "success at the end, %", box=SIMPLE_HEAD)
    for cell in found["cells"]:
        prover = "" if cell["strength"] is None else f"{cell['strength']:g}"
        updates = [_median(cell["updates"][level]) for level in ("half", "most", "solved")]
        final = "{value:.1f} ({low:.1f}-{high:.1f})".format(**{name: 100 * value for name, value in cell["final"].items()})
        table.add_row(cell["arm"], prover, f"{cell['solved']}/{cell['runs']}", *updates, final)
    console = Console()
    for shown in (table, *map(Text, found["words"])):
        console.print(shown)


def _median(found: dict[str, Any]) -> str:
    """A median with its interval."""
    value, low, high = ("never" if found[name] is None else f"{found[name]:g}" for name in ("value", "low", "high"))
    return f"{value} ({low}..{high})" if found["known"] else value
