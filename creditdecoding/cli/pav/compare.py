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
from creditdecoding.cli.pav.app import pav
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import interval, print_json, report_written, show, table, write_json
from creditdecoding.cli.search import COST_COLUMNS, COST_NOTE, cost_cells, load_verifier
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

NOTES = (
    COST_NOTE,
    "Points: percentage points above the other method at equal sequence-forwards (* outside of its "
    "budgets, where its end counts); on average over the forwards at which both were run. Times: "
    "how many times as many forwards the other method takes for the same accuracy.",
)


@pav.command()
@with_options(comparison=CompareConfig, generation=GenerationConfig, engine=EngineConfig)
def compare(
    tasks: Annotated[
        str, typer.Option(help="Tasks, benchmarks or files of questions, comma-separated.")
    ] = "pocket",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Problems a task; by default 100, or all of a shorter list.",
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
    """Compare searches under a verifier over budgets of compute.

    Examples:
        credit pav compare --verifier pocket --tasks arithmetic --n 1,2,4 --temperature 1.5
    """
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
    task_list = tuple(load_tasks(tasks))
    plan = SearchPlan(
        task_list,
        tuple(dict.fromkeys(comparison.methods.split())),
        parse_whole_numbers("n", comparison.n) or (),
        items_per_task(limit, 100, task_list),
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
    report_written(*written)


def _draw(report: Mapping[str, Any], png: Path | None, out: Path) -> Iterator[Path]:
    """Draw the curves; without matplotlib only if a picture was asked for."""
    if png is None and find_spec("matplotlib") is None:
        return
    from creditdecoding.plots.search import search_png

    path = png or out / "search.png"
    search_png(report, path)
    yield path


def _print(report: Mapping[str, Any]) -> None:
    rows: list[tuple[str, ...] | None] = []
    for curve in report["curves"]:
        for point in curve["points"]:
            rows.append((curve["method"], str(point["n"]), *cost_cells(point)))
        rows.append(None)
    columns = ("method", "n", "against", "points [95 %]", "times [95 %]")
    shares = ", ".join(
        f"{name} {share:.0f} %" for name, share in report["families"].items() if share is not None
    )
    show(
        table(("method", "n", *COST_COLUMNS), rows),
        table(columns, _against_rows(report), text_columns=("against",)),
        *NOTES,
        *([f"One answer is right: {shares}."] if shares else []),
    )


def _against_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...] | None]:
    """Searches against `best_of_n` at equal sequence-forwards, and on average."""
    for pair in report["against"]:
        if pair["measure"] != "sequences" or not pair["baseline"].startswith("best_of_n"):
            continue
        names = (pair["method"], pair["baseline"])
        for point in pair["points"]:
            value, low, high = (
                "never" if end is None else f"{end:.2f}" for end in point["ratio"].values()
            )
            mark = "" if point["inside"] else " *"
            points = interval(point["difference"], "+.1f") + mark
            yield (names[0], str(point["n"]), names[1], points, f"{value} [{low}, {high}]")
        if pair["range"] is not None:
            forwards = f"{pair['range']['from']:.0f} to {pair['range']['to']:.0f} forwards"
            yield (
                names[0],
                "",
                f"{names[1]}, {forwards}",
                interval(pair["range"]["difference"], "+.1f"),
                "",
            )
        yield None
