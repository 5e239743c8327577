"""The command speedups."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.renamed import renamed_to
from creditdecoding.cli.render import (
    interval,
    number,
    print_json,
    report_written,
    show,
    table,
    write_json,
)
from creditdecoding.cli.validate import (
    check_can_plot,
    check_no_decoder,
    check_writable,
    parse_split,
)
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError

Decoders = Annotated[
    str, typer.Option(help="Separated by blanks; gains are over the first of them.")
]
SplitName = Annotated[str, typer.Option("--split", help="test, dev or train, of generated tasks.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Also save the JSON to this file; an interrupted run continues.", show_default=False
    ),
]
Png = Annotated[
    Path | None, typer.Option(help="Also draw the figure to this file.", show_default=False)
]


@app.command()
@app.command("orthogonality", hidden=True, cls=renamed_to("speedups"))
@with_options(generation=GenerationConfig, engine=EngineConfig)
def speedups(
    decoders: Decoders = "fixed threshold credit",
    tasks: Annotated[
        str, typer.Option(help="Families, benchmarks or files of questions, comma-separated.")
    ] = "pocket",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Items a family.", min=1, show_default="25, or all of a list that is shorter"
        ),
    ] = None,
    settings: Annotated[
        str,
        typer.Option(
            help="What to change, one at a time, separated by blanks: early-stop, cache (each), "
            "cache:NAME, compile, int8, together."
        ),
    ] = "early-stop cache compile int8 together",
    repeats: Annotated[
        int, typer.Option(help="Times that each batch is timed; the median counts.", min=1)
    ] = 3,
    split: SplitName = "test",
    out: Out = None,
    png: Png = None,
    load: Annotated[
        Path | None,
        typer.Option(
            help="Show the report of a saved JSON, also of an earlier version, and decode nothing.",
            show_default=False,
        ),
    ] = None,
    model: Model = "pocket",
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Measure what caches and compilation add to a decoder.

    Each setting changes one thing of the base, which the other options give: early stop, the
    cache, torch.compile, int8 weights. It also reports what these cost in answers. Models run on
    one thread unless --threads says more.

    Examples:
        credit speedups --decoders "threshold credit" --settings cache --limit 20
    """
    from creditdecoding.eval.saved_answers import grid_folder
    from creditdecoding.eval.speedups import SpeedupPlan, run
    from creditdecoding.eval.sweep import split_blanks
    from creditdecoding.plots.speedups import speedups_png
    from creditdecoding.tasks import load_tasks

    check_outputs("speedups", generation, out, png)
    if load is not None:
        report = load_report(load)
    else:
        loaded_tasks = tuple(load_tasks(tasks))
        plan = SpeedupPlan(
            model=model,
            tasks=loaded_tasks,
            decoders=tuple(split_blanks(decoders)),
            limit=items_per_task(limit, 25, loaded_tasks),
            split=parse_split(split),
            kinds=tuple(settings.split()),
            repeats=repeats,
            generation=generation,
            engine=one_thread(engine),
        )
        with (
            grid_folder(out) as folder,
            open_progress("answers", resumable=out is not None) as start,
        ):
            numbers = run(plan, lambda engine: load_lm(model, engine), folder, start)
            report = {"model": model, **numbers}
            if out is not None:
                write_json(out, report)
    if png is not None:
        speedups_png(report, png)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    report_written(out if load is None else None, png)


def check_outputs(
    command: str, generation: GenerationConfig, out: Path | None, png: Path | None
) -> None:
    """Refuse --decoder, and outputs that cannot be written."""
    check_no_decoder(command, generation)
    check_can_plot(png)
    check_writable(out, png)


def one_thread(engine: EngineConfig) -> EngineConfig:
    """The engine with one thread, unless it names a number."""
    return dataclasses.replace(engine, threads=engine.threads or 1)


def load_report(path: Path) -> dict[str, Any]:
    """A report that was saved with --out, by this or an earlier version."""
    from creditdecoding.eval.speedups import read_report

    try:
        report: dict[str, Any] = read_report(json.loads(path.read_text(encoding="utf-8")))
        report["decoders"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"not a saved report ({error})", given=str(path), hint="Make one with --out."
        ) from error
    return report


def print_report(report: dict[str, Any]) -> None:
    """Two tables, of answers and of passes and time, and the verdict."""
    from creditdecoding.eval.compare_report import FEW, INTERVALS
    from creditdecoding.eval.measures import FEW_ITEMS
    from creditdecoding.eval.speedups import VERDICTS

    first = report["decoders"][0]
    answers = []
    gains = []
    missing = []
    for setting in report["settings"]:
        if setting["reason"] is not None:
            missing.append(f"Not measured: {setting['name']} ({setting['reason'].rstrip('.')}).")
            continue
        answers.append((setting["name"], *[""] * 4))
        gains.append((setting["name"], *[""] * 6))
        for cell in setting["decoders"]:
            answers.append((f"  {cell['decoder']}", *_answer_cells(cell)))
            gains.append((f"  {cell['decoder']}", *_gain_cells(cell, first)))
    answer_columns = ("setting", "score % [95 %]", "change [95 %]", "agree %", "computed")
    gain_columns = ("setting", "NFE", "TPF", "time", "passes [95 %]", "time", "kept %")
    lines = [
        *missing,
        "Change in points, equal tokens and computed positions: against the same decoder's base.",
        f"First time: speed over the same decoder's base. Then over {first} under the same setting:"
        " passes (* significantly fewer), speed, and the share of the base's speed-up kept.",
        f"Times are ratios of {report['clock']}, after warming up. {INTERVALS}",
    ]
    if report.get("verdict"):
        lines.append(VERDICTS[report["verdict"]])
    if report["items"] < FEW_ITEMS:
        lines.append(FEW)
    show(
        table(answer_columns, answers, "Answers"),
        table(gain_columns, gains, "Passes and time"),
        *lines,
    )


def _answer_cells(cell: dict[str, Any]) -> tuple[str, ...]:
    base = cell["against_base"]
    return (
        interval(cell["score"]),
        interval(base["difference"], "+.1f"),
        number(base.get("agreement"), ".1f"),
        number(base.get("computed")),
    )


def _gain_cells(cell: dict[str, Any], first: str) -> tuple[str, ...]:
    own = (number(cell["nfe"]), number(cell["tpf"]), ratio(cell["against_base"]["faster"]))
    gain = cell["against"].get(first)
    if gain is None:
        return (*own, "", "", "")
    kept = f"{100 * gain['gain_retained']:.0f}"
    return (*own, significant_speedup(gain["speedup"]), ratio(gain["faster"]), kept)


def ratio(estimate: dict[str, float]) -> str:
    """A ratio without its interval."""
    return f"{estimate['value']:.2f}x"


def significant_speedup(estimate: dict[str, float]) -> str:
    """A ratio of passes with its interval; a star if passes are significantly fewer."""
    return interval(estimate, ".2f") + (" *" if estimate["low"] > 1 else "")
