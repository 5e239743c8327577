"""The command pav compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.pav import pav
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import print_json, write_json
from creditdecoding.cli.search import (
    COST_COLUMNS,
    cost_cells,
    load_verifier,
    print_tables,
    search_table,
)
from creditdecoding.cli.validate import (
    check_can_plot,
    check_folder,
    check_writable,
    parse_split,
    parse_whole_numbers,
)
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.pav.search.options import CompareConfig

NOTE = (
    "Sequences: sequence-forwards a problem, those of the verifier included and also in the next "
    "column. Points: percentage points above the other method at equal sequence-forwards "
    "(* outside of its budgets, where its end counts). Times: how many times as many the other "
    "method takes for the same accuracy."
)


@pav.command()
@with_options(comparison=CompareConfig, generation=GenerationConfig, engine=EngineConfig)
def compare(
    tasks: Annotated[
        str, typer.Option(help="Families, benchmarks or files of questions, comma-separated.")
    ] = "pocket",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Problems a family; by default 100, or all of a shorter list.",
            min=2,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the run; an interrupted run in it is continued.")
    ] = Path("runs/search"),
    png: Annotated[
        Path | None,
        typer.Option(help="The picture; by default OUT/search.png.", show_default=False),
    ] = None,
    model: Model = "pocket",
    as_json: Json = False,
    *,
    comparison: CompareConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Compare searches under a verifier over budgets: accuracy, compute, intervals."""
    from creditdecoding.pav.search.compare import SearchPlan, run
    from creditdecoding.pav.search.report import summarise
    from creditdecoding.tasks import load_tasks

    check_can_plot(png)
    check_writable(png)
    check_folder(out, "samples.jsonl", "report.json", "search.png")
    if not comparison.verifier:
        raise OptionError(
            "a comparison of searches needs a verifier",
            hint="Train one with: credit pav train; name it with --verifier.",
        )
    engine = dataclasses.replace(engine, threads=engine.threads or 1)
    chosen = tuple(load_tasks(tasks))
    plan = SearchPlan(
        chosen,
        tuple(dict.fromkeys(comparison.methods.split())),
        parse_whole_numbers("n", comparison.n) or (),
        items_per_task(limit, 100, chosen),
        generation,
        comparison.verifier,
        comparison.outcome,
        comparison.seeds,
        parse_split(comparison.split),
        engine,
        parse_whole_numbers("step-n", comparison.step_n) or (),
    )
    lm = load_lm(model, engine)
    judge = load_verifier(Path(comparison.verifier), lm, engine)
    outcome = load_verifier(Path(comparison.outcome), lm, engine) if comparison.outcome else None
    assert judge is not None
    with open_progress("problems", resumable=True) as start:
        records = run(plan, out, lm, judge, outcome, start)
        report = {"model": model, **summarise(plan, records)}
    write_json(out / "report.json", report)
    written = [out / "samples.jsonl", out / "report.json", *_draw(report, png, out)]
    if as_json:
        print_json(report)
    else:
        _print(report)
    typer.echo(f"wrote {', '.join(map(str, written))}", err=True)


def _draw(report: Mapping[str, Any], png: Path | None, out: Path) -> Iterator[Path]:
    """Draw the curves; without matplotlib only if a picture was asked for."""
    if png is None and find_spec("matplotlib") is None:
        return
    from creditdecoding.plots.search import search_png

    path = png or out / "search.png"
    search_png(report, path)
    yield path


def _print(report: Mapping[str, Any]) -> None:
    table = search_table("method", "n", *COST_COLUMNS)
    for curve in report["curves"]:
        for point in curve["points"]:
            table.add_row(curve["method"], str(point["n"]), *cost_cells(point))
        table.add_section()
    shares = ", ".join(
        f"{name} {share:.0f} %" for name, share in report["families"].items() if share is not None
    )
    notes = [NOTE]
    if shares:
        notes.append(f"One answer is right: {shares}.")
    print_tables([table, _against_table(report)], [*notes, *report["words"]])


def _against_table(report: Mapping[str, Any]) -> Any:
    """Searches against `best_of_n` at equal sequence-forwards."""
    from rich.text import Text

    from creditdecoding.eval.words import signed

    table = search_table("method", "n", "against", "points [95 %]", "times [95 %]")
    for pair in report["against"]:
        if pair["measure"] != "sequences" or not pair["baseline"].startswith("best_of_n"):
            continue
        for point in pair["points"]:
            ends = ("never" if end is None else f"{end:.2f}" for end in point["ratio"].values())
            value, low, high = ends
            points = signed(point["difference"]) + ("" if point["inside"] else " *")
            table.add_row(
                pair["method"],
                str(point["n"]),
                pair["baseline"],
                Text(points),
                Text(f"{value} [{low}, {high}]"),
            )
        table.add_section()
    return table
