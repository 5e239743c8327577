"""The command pav collect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav import pav
from creditdecoding.cli.progress import open_progress, progress
from creditdecoding.cli.render import print_json
from creditdecoding.cli.validate import check_writable
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.pav.data.options import CollectConfig

if TYPE_CHECKING:
    from creditdecoding.pav.data.label_store import StoreContents


@pav.command()
@with_options(collecting=CollectConfig, generation=GenerationConfig, engine=EngineConfig)
def collect(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Where the labels go, as JSONL; a store found there goes on where it stopped.",
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            help="Families, benchmarks, or a file of your own questions (docs/tasks.md), comma-separated."
        ),
    ] = "arithmetic",
    against: Annotated[
        str | None,
        typer.Option(
            help="Label a sample of the states anew with this decoder too, and compare: fixed is standard decoding.",
            show_default=False,
        ),
    ] = None,
    against_limit: Annotated[int, typer.Option(help="States in that sample.", min=2)] = 100,
    model: Model = "pocket",
    as_json: Json = False,
    *,
    collecting: CollectConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Label states of answers: how often completions of them, sampled with --decoder and
    --temperature, are right.
    """
    from creditdecoding.decoding.request import check_supported
    from creditdecoding.pav.data import agreement
    from creditdecoding.pav.data.collect import fill, header, problems_of
    from creditdecoding.pav.data.label_store import open_store
    from creditdecoding.tasks import load_tasks

    check_writable(out)
    chosen = load_tasks(tasks)
    lm = load_lm(model, engine)
    other = None if against is None else check_supported(against, lm.geometry)
    problems = problems_of(lm, chosen, collecting, generation)
    head = header(lm, model, chosen, problems, collecting, generation, engine)
    with open_store(out, head) as store, open_progress("problems", resumable=True) as start:
        tick = start(len(store.found.labels), len(problems))
        fill(store, lm, problems, collecting, generation, tick)
    report = {"model": model, **_report(store.found)}
    if other is not None:
        some = agreement.chosen(
            (label for each in store.found.labels.values() for label in each),
            against_limit,
            generation.seed,
        )
        with progress(2 * len(some), "states, twice") as tick:
            report["against"] = {
                "decoder": against,
                **agreement.agree(lm, problems, some, generation, against, tick=tick).to_json(),
            }
    print_json(report) if as_json else _print(report)
    typer.echo(f"wrote {out}", err=True)


def _report(found: StoreContents) -> dict[str, Any]:
    """Labels and their cost in figures."""
    labels = [label for each in found.labels.values() for label in each]
    states = [label for label in labels if not label.state.done]
    ends = Counter(label.state.reason for label in labels if label.state.done)
    spread = Counter(
        "all" if label.wins == label.draws else "some" if label.wins else "none" for label in states
    )
    bill = found.bill.to_json()
    return {
        "problems": len(found.labels),
        "labels": len(labels),
        "states": len(states),
        "states_right": {name: spread[name] for name in ("none", "some", "all")},
        "answers": len(labels) - len(states),
        "answers_right": sum(label.wins for label in labels if label.state.done),
        "answers_cut_off": ends["length"],
        **bill,
        "rollouts_per_second": round(bill["rollouts"] / bill["seconds"], 2)
        if bill["seconds"]
        else 0.0,
    }


def _print(report: dict[str, Any]) -> None:
    right = report["states_right"]
    typer.echo(
        f"{report['labels']} labels of {report['problems']} problems: {report['states']} states, {report['answers']} complete answers"
    )
    typer.echo(
        f"states: {right['none']} with no completion right, {right['some']} with some, {right['all']} with all"
    )
    cut = (
        f", {report['answers_cut_off']} cut off by --gen-length"
        if report["answers_cut_off"]
        else ""
    )
    typer.echo(f"answers: {report['answers_right']} right{cut}")
    computed = f"{report['sequences']} sequence-forwards ({report['passes']} passes of rows), {report['positions']} positions, {report['tokens']} tokens"
    typer.echo(
        f"cost: {report['rollouts']} rollouts, {computed}, {report['seconds']:.1f} s, {report['rollouts_per_second']:.1f} rollouts/s"
    )
    if "against" in report:
        _print_against(report["against"])


def _print_against(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        f"{found['states']} states of {found['problems']} problems again",
        "success %",
        "sequence-forwards",
        "passes",
        "seconds",
    )
    for name, bill, success in zip(
        ("--decoder", found["decoder"]), (found["ours"], found["theirs"]), found["success"]
    ):
        table.add_row(
            name,
            f"{success:.1f}",
            f"{bill['sequences']}",
            f"{bill['passes']}",
            f"{bill['seconds']:.1f}",
        )
    times = found["times"]
    table.add_row(
        "times",
        "",
        f"{times['sequences']:.2f}",
        f"{times['passes']:.2f}",
        f"{times['seconds']:.2f}",
    )
    Console().print(table)
    for what, words in (
        ("between", f"{found['decoder']} minus --decoder"),
        ("again", "--decoder drawn again minus its labels"),
    ):
        difference, scatter = found[what]["difference"], found[what]["scatter"]
        typer.echo(
            f"{words}: {difference['value']:+.2f} points [{difference['low']:+.2f}, {difference['high']:+.2f}]; scatter {scatter['value']:.2f} "
            f"over {scatter['states']} states, 1 by chance (p {scatter['p']:.3f})"
        )
