"""The command tune."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, Raw, app, load_lm
from creditdecoding.cli.export import usage_comment
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import answer_progress
from creditdecoding.cli.render import print_json, write
from creditdecoding.cli.validate import check_writable, parse_split
from creditdecoding.config import EngineConfig, GenerationConfig

if TYPE_CHECKING:
    from creditdecoding.eval.tune import TuneResult


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def tune(
    tasks: Annotated[
        str,
        typer.Option(
            help="pocket, families of it, benchmarks, or a file of your own questions (docs/tasks.md), comma-separated."
        ),
    ] = "pocket",
    bound: Annotated[
        float, typer.Option(help="Points of score that may be lost against standard decoding.")
    ] = 1.0,
    confidence: Annotated[
        float, typer.Option(help="With which no more are lost, between 0 and 1.")
    ] = 0.9,
    limit: Annotated[
        int,
        typer.Option(help="Items a family, on average; 0 for all of a benchmark or a file.", min=0),
    ] = 60,
    split: Annotated[
        str, typer.Option(help="dev, test or train, of the families of pocket.")
    ] = "dev",
    item_seed: Annotated[int, typer.Option(help="Seed of the draw of items.", min=0)] = 0,
    model: Model = "pocket",
    raw: Raw = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the decoder to this file, as credit export does.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Find a decoder's fastest setting that loses at most --bound points of score with --confidence
    (docs/tune.md).

    --decoder NAME tries its usual sweep, NAME:knob=1|2|4 values of your own, safest first.
    With --out answers are kept in FILE.partial until the file is written, and the same command goes
    on after an interruption.
    """
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.eval.tune import LossBound, draw_items, settings_in_order
    from creditdecoding.eval.tune import tune as run
    from creditdecoding.tasks import load_tasks

    where = parse_split(split)
    check_writable(out)
    promise, settings, chosen = (
        LossBound(bound, confidence),
        settings_in_order(generation.decoder),
        load_tasks(tasks),
    )
    items = draw_items(chosen, where, limit, item_seed)
    lm = load_lm(model, engine)
    asked = {"generation": _options(generation), "split": split, "raw": raw}
    with save_answers(
        out, answers_manifest("tune", model, engine, chosen, items, settings, **asked)
    ) as kept:
        done = 0 if kept is None else kept.count
        with answer_progress(
            len(items) * (1 + len(settings)), "answers at most", done, kept is not None
        ) as on_event:
            found = run(
                lm, chosen, items, generation.decoder, promise, generation, on_event, raw, kept
            )
        if out is not None:
            _save(found, generation.block_length, out)
    if as_json:
        drawn_by = {"limit": limit, "split": split, "item_seed": item_seed}
        told = {
            **drawn_by,
            "raw": raw,
            "generation": _options(generation),
            "engine": dataclasses.asdict(engine),
        }
        about_tasks = {family.name: dict(family.metadata) for family in chosen}
        print_json(
            {
                "model": model,
                "decoder": generation.decoder,
                **found.to_json(),
                "tasks": about_tasks,
                "settings": told,
            }
        )
    else:
        _print(found)
    if out is not None:
        typer.echo(f"wrote {out}", err=True)


def _options(generation: GenerationConfig) -> dict[str, Any]:
    """All options of a request but its decoder."""
    return {
        name: value for name, value in dataclasses.asdict(generation).items() if name != "decoder"
    }


def _save(found: TuneResult, block_length: int | None, out: Path) -> None:
    from creditdecoding.decoders import export_text, load

    rule, size = load(found.chosen)
    format = "json" if out.suffix.lower() == ".json" else "sglang"
    write(
        out,
        export_text(
            rule, format, block_length or size, "\n".join([*found.words(), usage_comment(rule)])
        ),
    )


def _print(found: TuneResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "setting",
        "passes",
        "times fewer",
        "score %",
        "loss (right alone: standard, setting)",
        "p",
        "certified",
    )
    table.add_row("standard decoding", f"{found.nfe:.2f}", "1.00", f"{found.score:.1f}", "", "", "")
    for each in found.tested:
        counts, faster = each.counts, f"{found.nfe / each.nfe:.2f}"
        loss = f"{100 * counts.loss:+.2f} ({counts.lost}, {counts.won})"
        table.add_row(
            each.spec,
            f"{each.nfe:.2f}",
            faster,
            f"{each.score:.1f}",
            loss,
            f"{each.p:.3g}",
            "yes" if each.certified else "no",
        )
    for spec in found.untested:
        table.add_row(spec, *[""] * 5, "not tested")
    console = Console()
    console.print(table)
    for sentence in found.words():
        console.print(Text(sentence))
