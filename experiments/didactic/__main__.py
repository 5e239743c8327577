"""The command `python -m experiments.didactic`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, main
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.help import CreditTyper
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import print_json, report_written, show, table
from creditdecoding.cli.validate import check_can_plot, check_writable
from experiments.didactic.options import DidacticConfig

command = CreditTyper(add_completion=False)


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
    outcome does not (docs/research/didactic.md)?

    Every arm is run with every seed, arms with a prover with every strength. As it stands some
    minutes on one thread of a quiet machine.
    """
    from experiments.didactic.report import report
    from experiments.didactic.run import read, run_all, save

    check_can_plot(png)
    check_writable(out, png)
    with open_progress("looks at runs, at most", resumable=out is not None) as start:
        runs = run_all(didactic, out, start)
    summary = report(didactic, runs)
    if out is not None:
        save(out, didactic, read(out, didactic), summary)
    if png is not None:
        from experiments.didactic.plot import didactic_png

        didactic_png(summary, png)
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    report_written(out, png)


def _print(report: dict[str, Any]) -> None:
    show(
        table(
            ("arm", "prover", "95 %", "solved", "runs", "Pass@64 *"),
            map(_cell_row, report["cells"]),
            title="updates until (95% intervals over seeds)",
        ),
        f"* of 64 samples after {report['settings']['pass_at']} updates, whether one succeeds.",
    )
    if report["provers"]:
        columns = ("by rollouts", "Q off", "first gain", "distinguish", "align")
        rows = map(_prover_row, report["provers"])
        show(table(("prover", "success, %", *columns), rows, title="provers"))


def _cell_row(cell: dict[str, Any]) -> tuple[str, ...]:
    strength = "" if cell["strength"] is None else f"{cell['strength']:g}"
    medians = [_median(cell["updates"][level]) for level in ("most", "solved")]
    early = cell["pass_at"]["pass"][cell["pass_at"]["samples"].index(64)]["value"]
    solved = f"{cell['solved']}/{cell['runs']}"
    return (cell["arm"], strength, *medians, solved, f"{100 * early:.3g} %")


def _prover_row(prover: dict[str, Any]) -> tuple[str, ...]:
    low, high = (100 * prover["by_rollouts"][end] for end in ("low", "high"))
    names = ("q_off", "first_gain", "distinguishability", "alignment")
    numbers = [f"{prover[name]:.2g}" for name in names]
    success = f"{100 * prover['success']:.3g}"
    return (f"{prover['strength']:g}", success, f"{low:.3g}..{high:.3g}", *numbers)


def _median(interval: dict[str, Any]) -> str:
    """A median with its interval."""
    value, low, high = (
        "never" if interval[name] is None else f"{interval[name]:.0f}"
        for name in ("value", "low", "high")
    )
    return f"{value} ({low}..{high})" if interval["known"] else value


if __name__ == "__main__":
    main(command)
