"""The command lengths."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.renamed import renamed_to
from creditdecoding.cli.render import (
    interval,
    print_json,
    report_written,
    show,
    table,
    write_json,
)
from creditdecoding.cli.speedups import (
    Decoders,
    Out,
    Png,
    SplitName,
    check_outputs,
    one_thread,
    significant_speedup,
)
from creditdecoding.cli.validate import parse_split, parse_whole_numbers
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.wording import count


@app.command()
@app.command("scaling", hidden=True, cls=renamed_to("lengths"))
@with_options(generation=GenerationConfig, engine=EngineConfig)
def lengths(
    decoders: Decoders = "fixed threshold credit",
    tasks: Annotated[
        str,
        typer.Option(
            help="Families, benchmarks or files of questions, comma-separated; best one whose "
            "answers grow with the question."
        ),
    ] = "output",
    limit: Annotated[
        int, typer.Option(help="Items in each range of answer length, at most.", min=2)
    ] = 25,
    buckets: Annotated[int, typer.Option(help="Ranges of answer length, equally wide.", min=1)] = 4,
    sweeps: Annotated[
        str,
        typer.Option(
            help="Separated by blanks: answer (its length), gen (gen_length), gen-full (the same "
            "without early stop), block."
        ),
    ] = "answer gen gen-full block",
    gen_lengths: Annotated[
        str,
        typer.Option(
            help="Values of gen_length; by default those of 64, 128, 256 and 448 that fit."
        ),
    ] = "",
    block_lengths: Annotated[
        str,
        typer.Option(help="Values of block_length; by default those of 8 to 128 that fit."),
    ] = "",
    split: SplitName = "test",
    out: Out = None,
    png: Png = None,
    model: Model = "pocket",
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Measure how passes and score change with lengths.

    Lengths are that of the answer, gen_length and block_length.

    Examples:
        credit lengths --decoders "threshold credit" --limit 20
    """
    from creditdecoding.eval.lengths import LengthsPlan, lay_out, run
    from creditdecoding.eval.saved_answers import grid_folder
    from creditdecoding.eval.sweep import split_blanks
    from creditdecoding.plots.lengths import lengths_png
    from creditdecoding.tasks import load_tasks

    check_outputs("lengths", generation, out, png)
    plan = LengthsPlan(
        model=model,
        tasks=tuple(load_tasks(tasks)),
        decoders=tuple(split_blanks(decoders)),
        limit=limit,
        buckets=buckets,
        split=parse_split(split),
        sweeps=tuple(sweeps.split()),
        gen_lengths=parse_whole_numbers("gen_lengths", gen_lengths),
        block_lengths=parse_whole_numbers("block_lengths", block_lengths),
        generation=generation,
        engine=one_thread(engine),
    )
    lm = load_lm(model, plan.engine)
    layout = lay_out(plan, lm)
    with (
        grid_folder(out) as folder,
        open_progress("answers", resumable=out is not None) as start,
    ):
        report = {"model": model, **run(layout, lm, folder, start)}
        if png is not None:
            lengths_png(report, png)
        if out is not None:
            write_json(out, report)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    report_written(out, png)


def print_report(report: dict[str, Any]) -> None:
    """A table for each sweep, and how passes per token change along it."""
    from creditdecoding.eval.compare_report import FEW, INTERVALS
    from creditdecoding.eval.measures import FEW_ITEMS

    first = report["decoders"][0]
    for sweep in report["sweeps"]:
        rows = []
        for point in sweep["points"]:
            for cell in point["decoders"]:
                label = point["label"] if cell is point["decoders"][0] else ""
                rows.append((label, cell["decoder"], *_cells(cell, first)))
        columns = ("at", "decoder", "passes a token [95 %]", "NFE", "score %", "passes [95 %]")
        show(table(columns, rows, f"Over {sweep['title']}", ("decoder",)))
        if len(sweep["points"]) > 1:
            trends = ", ".join(f"{spec} {trend}" for spec, trend in sweep["trends"].items())
            show(f"Passes a token from the first to the last point: {trends}.")
        for point in sweep["points"]:
            if point["too_long"]:
                share = f"{point['too_long']} of {point['items']}"
                show(f"At {point['label']}, {share} reference answers do not fit with their end.")
    mean = report["reference_tokens"]["mean"]
    show(
        f"{count(report['items'], 'item')}, reference answers of {mean:.0f} tokens on average. "
        f"Last column: passes of {first} divided by the decoder's, * significantly fewer; - after "
        f"a score that is significantly below that of {first}. {INTERVALS}",
        *([FEW] if report["items"] < FEW_ITEMS else []),
    )


def _cells(cell: dict[str, Any], first: str) -> tuple[str, ...]:
    gain = cell["against"].get(first)
    worse = gain is not None and gain["difference"]["high"] < 0
    return (
        interval(cell["per_token"], ".3f"),
        f"{cell['nfe']:.2f}",
        f"{cell['score']['value']:.1f}" + (" -" if worse else ""),
        "" if gain is None else significant_speedup(gain["speedup"]),
    )
