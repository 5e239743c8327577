"""The commands orthogonality and scaling: whether gains persist under other speed-ups, and over
lengths.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import answer_progress, open_progress
from creditdecoding.cli.render import print_json, write
from creditdecoding.cli.validate import (
    check_can_plot,
    check_no_decoder,
    check_writable,
    parse_split,
    parse_whole_numbers,
)
from creditdecoding.config import EngineConfig, GenerationConfig

Decoders = Annotated[
    str,
    typer.Option(
        help="Separated by blanks; the last is held against the others, gains are over the first."
    ),
]
Where = Annotated[
    str, typer.Option("--split", help="test, dev or train, of the families of pocket.")
]
Out = Annotated[
    Path | None, typer.Option(help="Also save the JSON to this file.", show_default=False)
]
Png = Annotated[
    Path | None, typer.Option(help="Also draw the figures into this file.", show_default=False)
]


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def orthogonality(
    decoders: Decoders = "fixed threshold credit",
    tasks: Annotated[
        str, typer.Option(help="Families or benchmarks, comma-separated (docs/tasks.md).")
    ] = "pocket",
    limit: Annotated[int, typer.Option(help="Items a family.", min=1)] = 25,
    settings: Annotated[
        str,
        typer.Option(
            help="What to change, one at a time, separated by blanks: early-stop, cache, compile, int8, together."
        ),
    ] = "early-stop cache compile int8 together",
    repeats: Annotated[
        int, typer.Option(help="Times that each batch is timed; the median counts.", min=1)
    ] = 3,
    split: Where = "test",
    out: Out = None,
    png: Png = None,
    model: Model = "pocket",
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Does a decoder's gain persist without early stop, with each cache, torch.compile, int8
    weights? Score, NFE, TPF and time of each.

    The other options are the base that each setting changes one thing of. Times are taken with one
    thread unless --threads says more.
    """
    from creditdecoding.eval.speedups import Plan, run
    from creditdecoding.tasks import load_tasks

    _check("orthogonality", generation, out, png)
    chosen, specs = tuple(load_tasks(tasks)), tuple(decoders.split())
    engine = _one_thread(engine)
    plan = Plan(
        chosen,
        specs,
        limit,
        parse_split(split),
        tuple(settings.split()),
        repeats,
        generation,
        engine,
    )
    with open_progress("batches") as start:
        found = {"model": model, **run(plan, lambda engine: load_lm(model, engine), start)}
    if png is not None:
        from creditdecoding.plots.speedups import speedups_png

        speedups_png(found, png)
    _give(found, out, png, print_json if as_json else _print_settings)


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def scaling(
    decoders: Decoders = "fixed threshold credit",
    tasks: Annotated[
        str,
        typer.Option(
            help="Families or benchmarks, comma-separated; best one whose answers grow with the question."
        ),
    ] = "output",
    limit: Annotated[int, typer.Option(help="Items in each range of answer length.", min=2)] = 25,
    buckets: Annotated[int, typer.Option(help="Ranges of answer length, equally wide.", min=1)] = 4,
    sweeps: Annotated[
        str,
        typer.Option(
            help="Separated by blanks: answer (its length), gen (gen_length), gen-full (the same without early stop), block."
        ),
    ] = "answer gen gen-full block",
    gen_lengths: Annotated[
        str,
        typer.Option(
            help="Values of gen_length; by default 64, 128, 256 and 448 as far as the model allows."
        ),
    ] = "",
    block_lengths: Annotated[
        str,
        typer.Option(
            help="Values of block_length; by default 8 to 128 as far as the model allows."
        ),
    ] = "",
    split: Where = "test",
    out: Out = None,
    png: Png = None,
    model: Model = "pocket",
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """How passes per answer token and score scale with answer length, gen_length and block_length,
    for each decoder.

    With --out answers are kept in FILE.partial until the file is written, and the same command goes
    on after an interruption.
    """
    from creditdecoding.eval.lengths import Plan, lay_out, run
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.tasks import load_tasks

    _check("scaling", generation, out, png)
    lengths = (
        parse_whole_numbers("gen_lengths", gen_lengths),
        parse_whole_numbers("block_lengths", block_lengths),
    )
    plan = Plan(
        tuple(load_tasks(tasks)),
        tuple(decoders.split()),
        limit,
        buckets,
        parse_split(split),
        tuple(sweeps.split()),
        *lengths,
        generation,
    )
    engine = _one_thread(engine)
    lm = load_lm(model, engine)
    work = lay_out(plan, lm)
    asked = {"generation": dataclasses.asdict(generation), "split": split}
    with save_answers(
        out,
        answers_manifest(
            "scaling", model, engine, plan.families, work.items, plan.decoders, **asked
        ),
    ) as kept:
        done = 0 if kept is None else kept.count
        with answer_progress(
            len(work.items) * len(work.cells), done=done, resumable=kept is not None
        ) as on_event:
            found = {"model": model, **run(work, lm, on_event, kept)}
        if png is not None:
            from creditdecoding.plots.lengths import lengths_png

            lengths_png(found, png)
        _give(found, out, png, print_json if as_json else _print_sweeps)


def _check(command: str, generation: GenerationConfig, out: Path | None, png: Path | None) -> None:
    check_no_decoder(command, generation)
    check_can_plot(png)
    check_writable(out, png)


def _one_thread(engine: EngineConfig) -> EngineConfig:
    return dataclasses.replace(engine, threads=engine.threads or 1)


def _give(
    found: dict[str, Any],
    out: Path | None,
    png: Path | None,
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Save and show what was measured, and say which files were written."""
    if out is not None:
        write(out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    show(found)
    for path in (out, png):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)


def _print_settings(found: dict[str, Any]) -> None:
    first = found["decoders"][0]
    table = _table("", "setting", "score %", "NFE", "TPF", "time", "passes", "time", "kept")
    for setting in found["settings"]:
        table.add_row(setting["name"])
        if setting["reason"] is not None:
            table.add_row("  not yet")
        for each in setting["decoders"]:
            over = each["against"].get(first)
            gains = (
                (
                    f"{over['fewer']['value']:.2f}x",
                    f"{over['faster']['value']:.2f}x",
                    f"{100 * over['kept']:.0f} %",
                )
                if over
                else ("", "", "")
            )
            faster = f"{each['against_base']['faster']['value']:.2f}x"
            numbers = (
                _interval(each["score"]),
                f"{each['nfe']:.2f}",
                f"{each['tpf']:.2f}",
                faster,
                *gains,
            )
            table.add_row(f"  {each['decoder']}", *numbers)
    note = f"First time: as fast as the same decoder at the base. Then passes and time: fewer than, as fast as {first} under the same setting; "
    _print([table], [note + "kept: of that gain in time at the base.", *found["words"]])


def _print_sweeps(found: dict[str, Any]) -> None:
    first, tables = found["decoders"][0], []
    for sweep in found["sweeps"]:
        table = _table(
            f"Over {sweep['title']}",
            "at",
            "decoder",
            "passes a token",
            "NFE",
            "tokens",
            "score %",
            "passes",
        )
        for point in sweep["points"]:
            for each in point["decoders"]:
                over = each["against"].get(first)
                numbers = (
                    f"{each['per_token']['value']:.3f}",
                    f"{each['nfe']:.2f}",
                    f"{each['tokens']:.1f}",
                    _interval(each["score"]),
                )
                label = point["label"] if each is point["decoders"][0] else ""
                table.add_row(
                    label,
                    each["decoder"],
                    *numbers,
                    f"{over['fewer']['value']:.2f}x" if over else "",
                )
        tables.append(table)
    about = f"{found['items']} items, reference answers of {found['reference_tokens']['mean']:.0f} tokens on average. Last column: fewer than {first}."
    _print(tables, [about, *found["words"]])


def _table(title: str, *columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title or None,
        box=SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        table.add_column(
            column,
            justify="left" if column in ("setting", "decoder", "at") else "right",
            no_wrap=True,
        )
    return table


def _print(tables: list[Any], sentences: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for shown in (*tables, *map(Text, sentences)):
        console.print(shown)


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.1f} ({found['low']:.0f}-{found['high']:.0f})"
