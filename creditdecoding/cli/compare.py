"""The command compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from creditdecoding.cli.app import Json, Model, app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import print_json, write
from creditdecoding.cli.validate import (
    check_can_plot,
    check_folder,
    check_no_decoder,
    check_writable,
)
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError

Decoders = Annotated[
    str,
    typer.Option(
        help="Separated by blanks: all, NAME for its usual sweep, NAME:knob=1|2|4 for a sweep of your own, NAME:knob=1 to pin a knob."
    ),
]


class _CompareCommand(TyperCommand):
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
        str, typer.Option(help="Families to ask, comma-separated; pocket is all embedded ones.")
    ] = "pocket",
    templates: Annotated[
        str,
        typer.Option(
            help="Ways to wrap the question, comma-separated: all, plain, question, steps, task."
        ),
    ] = "plain",
    limit: Annotated[
        int, typer.Option(help="Test items a family, on which everything is reported.", min=1)
    ] = 100,
    dev_limit: Annotated[
        int, typer.Option(help="Dev items a family, on which settings are chosen.", min=1)
    ] = 50,
    bound: Annotated[
        float, typer.Option(help="Points of score that a setting may lose on dev.", min=0.0)
    ] = 1.0,
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a run found there goes on where it stopped.")
    ] = Path("runs/compare"),
    jobs: Annotated[int, typer.Option(help="Processes, each with a model of its own.", min=1)] = 1,
    report: Annotated[
        Path | None, typer.Option(help="The page; by default OUT/report.html.", show_default=False)
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="The picture; by default OUT/curves.png.", show_default=False),
    ] = None,
    model: Model = "pocket",
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Compare decoders over sweeps of their knobs: curves, operating points, intervals; goes on
    after an interruption.
    """
    from creditdecoding.cli.loading import loading_progress
    from creditdecoding.eval.compare import ComparePlan, run
    from creditdecoding.eval.compare_report import compare_report
    from creditdecoding.eval.sweep import parse_curves
    from creditdecoding.plots.compare_page import compare_html
    from creditdecoding.plots.tradeoff import tradeoff_png
    from creditdecoding.tasks.templates import parse_templates as named

    check_no_decoder("compare", generation)
    check_can_plot(png)
    check_writable(report, png)
    check_folder(out, "samples.jsonl", "report.json", "report.html", "curves.png")
    found = tuple(parse_curves(decoders))
    plan = ComparePlan(
        model, tasks, tuple(named(templates)), found, dev_limit, limit, generation, engine
    )
    with open_progress("samples", resumable=True) as start, loading_progress() as on_load:
        records = run(plan, out, jobs, start, on_load)
        summed = {"model": model, **compare_report(records, found, bound)}
    write(out / "report.json", json.dumps(summed, indent=1, ensure_ascii=False) + "\n")
    items, count = summed["items"], len(records)
    about = f"{model} · {tasks} · templates {', '.join(summed['templates'])} · {items['dev']} dev and {items['test']} test items · {count:,} samples"
    page = report or out / "report.html"
    write(page, compare_html(summed, "Decoders compared", about, summed["words"]))
    written = [
        out / "samples.jsonl",
        out / "report.json",
        page,
        *_draw(summed, png, out / "curves.png", tradeoff_png),
    ]
    if as_json:
        print_json(summed)
    else:
        _print(summed)
    typer.echo(f"wrote {', '.join(map(str, written))}", err=True)


def _draw(
    summed: dict[str, Any],
    png: Path | None,
    usual: Path,
    draw: Callable[[dict[str, Any], Path], None],
) -> list[Path]:
    """Draw the curves; without matplotlib only where a picture was asked for."""
    if png is None and find_spec("matplotlib") is None:
        return []
    draw(summed, png or usual)
    return [png or usual]


def _print(summed: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from creditdecoding.eval.words import signed

    standard = summed["reference"]["test"]
    title = "Settings chosen on dev, reported on test; * the fewest passes on dev"
    table = Table(
        "fewest passes at no measurable loss",
        "passes",
        "times fewer",
        "score %",
        "difference [95 %]",
        title=title,
    )
    table.add_row(
        "standard decoding",
        f"{standard['nfe']:.2f}",
        "1.00",
        f"{standard['score']['value']:.1f}",
        "",
    )
    for curve in sorted(
        (each for each in summed["curves"] if each["chosen"]),
        key=lambda each: each["chosen"]["test"]["nfe"],
    ):
        test = curve["chosen"]["test"]
        numbers = (
            f"{test['nfe']:.2f}",
            f"{test['speedup']['value']:.2f}",
            f"{test['score']['value']:.1f}",
            signed(test["difference"]),
        )
        mark = " *" * (curve["name"] == summed["best"])
        table.add_row(curve["chosen"]["label"] + mark, *map(Text, numbers))
    console = Console()
    console.print(table)
    for sentence in summed["words"]:
        console.print(Text(sentence))
