"""The command `python -m experiments.didactic`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, main
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import print_json
from creditdecoding.cli.validate import check_can_plot, check_writable
from experiments.didactic.options import DidacticConfig

command = typer.Typer(add_completion=False)


@command.command()
@with_options(didactic=DidacticConfig)
def didactic(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Keep runs and report in this JSON file; runs found there are not done again.",
            show_default=False,
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Also draw the figure into this file.", show_default=False)
    ] = None,
    as_json: Json = False,
    *,
    didactic: DidacticConfig,
) -> None:
    """The paper's didactic task: does an effective reward learn a planted sub-sequence where the
    outcome does not (docs/didactic.md)?

    Every arm is run with every seed, arms with a prover with every strength. As it stands some
    minutes on one thread of a quiet machine.
    """
    from experiments.didactic.report import report
    from experiments.didactic.run import pursue, read, save

    check_can_plot(png)
    check_writable(out, png)
    with open_progress("looks at runs, at most", resumable=out is not None) as start:
        runs = pursue(didactic, out, start)
    found = report(didactic, runs)
    if out is not None:
        save(out, didactic, read(out, didactic), found)
    if png is not None:
        from experiments.didactic.plot import didactic_png

        didactic_png(found, png)
    if as_json:
        print_json(found)
    else:
        _print(found)
    for path in (out, png):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    updates = _table(
        "updates until (95% intervals over seeds)",
        "arm",
        "prover",
        "95 %",
        "solved",
        "runs",
        "Pass@64 *",
    )
    for cell in found["cells"]:
        name = "" if cell["strength"] is None else f"{cell['strength']:g}"
        medians = [_median(cell["updates"][level]) for level in ("most", "solved")]
        early = cell["pass_at"]["pass"][cell["pass_at"]["samples"].index(64)]["value"]
        updates.add_row(
            cell["arm"], name, *medians, f"{cell['solved']}/{cell['runs']}", f"{100 * early:.3g} %"
        )
    provers = _table(
        "provers",
        "prover",
        "success, %",
        "by rollouts",
        "Q off",
        "first gain",
        "distinguish",
        "align",
    )
    for each in found["provers"]:
        rough = "{low:.3g}..{high:.3g}".format(
            **{name: 100 * share for name, share in each["by_rollouts"].items()}
        )
        numbers = [
            f"{each[name]:.2g}"
            for name in ("q_off", "first_gain", "distinguishability", "alignment")
        ]
        provers.add_row(f"{each['strength']:g}", f"{100 * each['success']:.3g}", rough, *numbers)
    console = Console()
    about = f"* of 64 samples after {found['settings']['pass_at']} updates, whether one succeeds."
    for shown in (
        updates,
        Text(about),
        *[provers] * bool(found["provers"]),
        *map(Text, found["words"]),
    ):
        console.print(shown)


def _table(title: str, *columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", padding=(0, 1, 0, 0)
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    return table


def _median(found: dict[str, Any]) -> str:
    """A median with its interval."""
    value, low, high = (
        "never" if found[name] is None else f"{found[name]:.0f}"
        for name in ("value", "low", "high")
    )
    return f"{value} ({low}..{high})" if found["known"] else value


if __name__ == "__main__":
    main(command)
