"""The command compare."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.help import CreditCommand
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.quality import Base, find_base, load_judge, show_quality
from creditdecoding.cli.render import (
    interval,
    number,
    print_json,
    report_written,
    show,
    table,
    write,
    write_json,
)
from creditdecoding.cli.validate import (
    check_can_plot,
    check_folder,
    check_no_decoder,
    check_writable,
)
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.wording import count

if TYPE_CHECKING:
    from rich.table import Table

LIMIT, DEV_LIMIT = 100, 50
WRITTEN = (
    "samples.jsonl",
    "report.json",
    "report.html",
    "curves.png",
    "leaderboard.yaml",
    "leaderboard.html",
)
"""Files of the folder, beside what it needs to continue."""

Decoders = Annotated[
    str,
    typer.Option(
        help="Separated by blanks: all, NAME for its usual sweep, NAME:knob=1|2|4 for these values "
        "of a knob, NAME:knob=1 to pin it."
    ),
]
Templates = Annotated[
    str,
    typer.Option(
        help="Ways to wrap the question, comma-separated: all, plain, question, steps, task."
    ),
]
Bound = Annotated[
    float, typer.Option(help="Points of score that a setting may lose on dev.", min=0.0)
]
Picture = Annotated[
    Path | None,
    typer.Option(help="The picture; by default OUT/curves.png.", show_default=False),
]


class _CompareCommand(CreditCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--search" in args:
            raise OptionError(
                "searches are compared by a command of their own",
                given="credit compare --search",
                hint="Run: credit pav compare.",
            )
        return super().parse_args(ctx, args)


@app.command(cls=_CompareCommand)
@with_options(generation=GenerationConfig, engine=EngineConfig)
def compare(
    decoders: Decoders = "fixed threshold credit",
    tasks: Annotated[
        str,
        typer.Option(
            help="Families, benchmarks or files of questions, comma-separated; pocket is all "
            "embedded families."
        ),
    ] = "pocket",
    templates: Templates = "plain",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Test items a family, on which everything is reported.",
            min=1,
            show_default="100, or all of a list that is shorter",
        ),
    ] = None,
    dev_limit: Annotated[
        int | None,
        typer.Option(
            help="Dev items a family, on which settings are chosen.", min=1, show_default="50"
        ),
    ] = None,
    bound: Bound = 1.0,
    out: Annotated[
        Path, typer.Option(help="Folder of the run; an interrupted run in it continues.")
    ] = Path("runs/compare"),
    jobs: Annotated[int, typer.Option(help="Processes, each with its own model.", min=1)] = 1,
    report: Annotated[
        Path | None, typer.Option(help="The page; by default OUT/report.html.", show_default=False)
    ] = None,
    png: Picture = None,
    model: Model = "pocket",
    base: Base = None,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Compare decoders over sweeps of their knobs.

    Settings are chosen on dev items and reported on test items, with intervals. The same command
    continues an interrupted run. With --base the text of the test answers is measured too.

    Examples:
        credit compare --decoders "fixed threshold credit" --limit 50
        credit compare --decoders "threshold:threshold=0.9|0.95 mine.py" --tasks facts
    """
    from creditdecoding.cli.loading import loading_progress
    from creditdecoding.eval.compare import ComparePlan, quality_of, run
    from creditdecoding.eval.compare_report import compare_report, verdict_lines
    from creditdecoding.eval.leaderboard import to_yaml
    from creditdecoding.eval.sweep import parse_curves
    from creditdecoding.lm import load
    from creditdecoding.plots.compare_page import compare_html
    from creditdecoding.plots.leaderboard_page import leaderboard_html
    from creditdecoding.plots.tradeoff import tradeoff_png
    from creditdecoding.tasks import load_tasks
    from creditdecoding.tasks.base import DefaultLimit
    from creditdecoding.tasks.templates import parse_templates

    check_no_decoder("compare", generation)
    check_can_plot(png)
    check_writable(report, png)
    check_folder(out, *WRITTEN)
    curves = tuple(parse_curves(decoders))
    if limit is None and dev_limit is None:
        items_per_task(None, LIMIT + DEV_LIMIT, load_tasks(tasks, open_text=True))
    plan = ComparePlan(
        model=model,
        tasks=tasks,
        templates=tuple(parse_templates(templates)),
        curves=curves,
        dev_limit=DefaultLimit(DEV_LIMIT) if dev_limit is None else dev_limit,
        limit=DefaultLimit(LIMIT) if limit is None else limit,
        generation=generation,
        engine=engine,
    )
    base = find_base(base, model, engine)
    samples = open_progress("samples", resumable=True, preparing="drawing the items")
    with samples as start, loading_progress() as on_load:
        load_model = None if jobs > 1 else partial(load, model, on_progress=on_load)
        records = run(plan, out, jobs, start, load_model)
        report_numbers = compare_report(records, curves, bound, gen_length=generation.gen_length)
        numbers = {"model": model, **report_numbers}
    judge = load_judge(base, engine)
    if judge is not None or numbers["open_text"]:
        numbers |= quality_of(plan, records, judge)
    write_json(out / "report.json", numbers)
    board, board_page = out / "leaderboard.yaml", out / "leaderboard.html"
    write(board, to_yaml(numbers["parallelism"]))
    write(board_page, leaderboard_html(numbers["parallelism"], numbers["aup"]))
    items = numbers["items"]
    about = (
        f"{model} · {tasks} · templates {', '.join(numbers['templates'])} · {items['dev']} dev and "
        f"{count(items['test'], 'test item')} · {count(len(records), 'sample')}"
    )
    page = report or out / "report.html"
    picture = png or (out / "curves.png" if find_spec("matplotlib") else None)
    write(page, compare_html(numbers, "Decoders compared", about, verdict_lines(numbers)))
    if picture is not None:
        tradeoff_png(numbers, picture)
    if as_json:
        print_json(numbers)
    else:
        print_report(numbers)
    report_written(out / "samples.jsonl", out / "report.json", board, board_page, page, picture)


def print_report(report: dict[str, Any]) -> None:
    """The chosen settings, fewest passes first, the verdict, and the quality of the text."""
    from creditdecoding.eval.compare_report import verdict_lines

    standard = report["reference"]["test"]
    best_curves = [curve for curve in report["curves"] if curve["chosen"]]
    best_curves.sort(key=lambda curve: curve["chosen"]["test"]["nfe"])
    rows = [("standard decoding", f"{standard['nfe']:.2f}", "", _score(standard), "")]
    for curve in best_curves:
        test = curve["chosen"]["test"]
        rows.append(
            (
                curve["chosen"]["label"] + (" *" if curve["name"] == report["best"] else ""),
                f"{test['nfe']:.2f}",
                interval(test["speedup"], ".1f"),
                _score(test),
                interval(test["difference"], "+.1f"),
            )
        )
    columns = ("setting", "passes", "speed-up [95 %]", "score %", "difference [95 %]")
    title = "Chosen on dev, reported on test; * the fewest passes on dev"
    without = [curve["name"] for curve in report["curves"] if not curve["chosen"]]
    lines = (
        [f"No setting without a measurable loss on dev: {', '.join(without)}."] if without else []
    )
    show(table(columns, rows, title), *lines, *verdict_lines(report), _yardstick_table(report))
    if "quality" in report:
        show_quality(report["quality"], report["base"])


def _yardstick_table(report: dict[str, Any]) -> Table:
    """Of the same settings: tokens a pass, the spread of passes, seconds and their share outside of
    the model; and AUP of the curves.
    """
    aup = report["aup"]["all" if "all" in report["aup"] else report["families"][0]]
    points = {curve["name"]: curve["chosen"] for curve in report["curves"] if curve["chosen"]}
    rows = []
    for name, point in [("standard decoding", report["reference"]), *points.items()]:
        tokens = point["tpf"]
        spread = "/".join(f"{passes:.0f}" for passes in point["nfe_spread"][:3])
        rows.append(
            (
                name,
                f"{tokens['visible']:.2f}",
                f"{tokens['with_stop']:.2f}",
                f"{tokens['full_span']:.2f}",
                spread,
                number(point["seconds"], ".2f"),
                number(point["outside_share"], ".0%"),
                number(aup.get(name), ".0f"),
            )
        )
    columns = (
        "tokens a pass",
        "answer",
        "+ stop",
        "full span",
        "passes 10/50/90 %",
        "s",
        "outside",
        "AUP",
    )
    return table(columns, rows)


def _score(numbers: dict[str, Any]) -> str:
    return number(numbers["score"]["value"], ".1f")
