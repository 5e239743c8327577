"""The command tune."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, Raw, app, load_lm
from creditdecoding.cli.export import usage_comment
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import answer_progress
from creditdecoding.cli.render import print_json, report_written, show, table, write
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
            help="pocket, a generated task (chain, ...), a question file, or benchmarks: "
            "NAME[=PATH]; comma-separated (docs/guide/evaluating.md)."
        ),
    ] = "pocket",
    bound: Annotated[
        float, typer.Option(help="Points of score that may be lost against standard decoding.")
    ] = 1.0,
    confidence: Annotated[
        float, typer.Option(help="With which no more are lost, between 0 and 1.")
    ] = 0.9,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Items a family, on average; 0 for all of a benchmark or a file.",
            min=0,
            show_default="60, or all of a list that is shorter",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="dev, test or train, of generated tasks.")] = "dev",
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
    """Find a decoder's fastest setting that loses at most a bound.

    At most --bound points of score are lost, with --confidence (docs/guide/tuning.md). --decoder
    NAME tries its usual sweep, NAME:knob=1|2|4 the values given, safest first. With --out answers
    are kept in FILE.partial until the file is written, and the same command continues an
    interrupted run.

    Examples:
        credit tune --decoder credit --bound 2
        credit tune --decoder "thrift:threshold=0.999|0.99|0.9" --tasks mine.jsonl --out best.yaml
    """
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.eval.tune import LossBound, draw_items, settings_in_order
    from creditdecoding.eval.tune import tune as run
    from creditdecoding.tasks import load_tasks

    item_split = parse_split(split)
    check_writable(out)
    loss_bound = LossBound(bound, confidence)
    settings = settings_in_order(generation.decoder)
    loaded_tasks = load_tasks(tasks)
    count = items_per_task(limit, 60, loaded_tasks)
    items = draw_items(loaded_tasks, item_split, count, item_seed)
    lm = load_lm(model, engine)
    options = {"generation": _options(generation), "split": split, "raw": raw}
    manifest = answers_manifest("tune", model, engine, loaded_tasks, items, settings, **options)
    with save_answers(out, manifest) as saved:
        done = 0 if saved is None else saved.count
        most = len(items) * (1 + len(settings))
        with answer_progress(most, "answers at most", done, saved is not None) as on_event:
            result = run(
                lm,
                loaded_tasks,
                items,
                generation.decoder,
                loss_bound,
                generation,
                on_event,
                raw,
                saved,
            )
        if out is not None:
            write_decoder(result, generation.block_length, out)
    if as_json:
        draw = {"limit": count, "split": split, "item_seed": item_seed, "raw": raw}
        engine_options = dataclasses.asdict(engine)
        print_json(
            {
                "model": model,
                "decoder": generation.decoder,
                **result.to_json(),
                "tasks": {task.name: dict(task.metadata) for task in loaded_tasks},
                "settings": {**draw, "generation": _options(generation), "engine": engine_options},
            }
        )
    else:
        print_result(result)
    report_written(out)


def _options(generation: GenerationConfig) -> dict[str, Any]:
    """All options of a request but its decoder."""
    options = dataclasses.asdict(generation)
    del options["decoder"]
    return options


def write_decoder(result: TuneResult, block_length: int | None, out: Path) -> None:
    """Write the chosen decoder as `credit export` does; the verdict is its first comment."""
    from creditdecoding.decoders import export_text, load

    decoder, own_block_length = load(result.chosen)
    form = "json" if out.suffix.lower() == ".json" else "sglang"
    comment = "\n".join([*result.lines(), usage_comment(decoder)])
    write(out, export_text(decoder, form, block_length or own_block_length, comment))


def print_result(result: TuneResult) -> None:
    """Every setting that was tested, and the verdict."""
    rows = [("standard decoding", f"{result.nfe:.2f}", "", f"{result.score:.1f}", *[""] * 4)]
    for setting in result.tested:
        counts = setting.counts
        rows.append(
            (
                setting.spec,
                f"{setting.nfe:.2f}",
                f"{result.nfe / setting.nfe:.2f}x",
                f"{setting.score:.1f}",
                f"{100 * counts.loss:+.2f}",
                f"{counts.lost}, {counts.won}",
                f"{setting.p:.3g}",
                "yes" if setting.certified else "no",
            )
        )
    rows += [(spec, *[""] * 6, "untested") for spec in result.untested]
    columns = ("setting", "passes", "speed-up", "score %", "loss", "lost, won", "p", "certified")
    show(
        table(columns, rows),
        "Lost, won: items that only standard decoding, or only the setting, answers right.",
        *result.lines(),
    )
