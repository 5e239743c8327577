"""Commands that measure: eval, drift, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, Raw, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import answer_progress
from creditdecoding.cli.render import print_json, write
from creditdecoding.cli.validate import check_writable, parse_split
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError


@app.command("eval")
@with_options(generation=GenerationConfig, engine=EngineConfig)
def evaluate(
    tasks: Annotated[
        str,
        typer.Option(
            help="pocket, families of it, or benchmarks: NAME[@TEMPLATE][=PATH] (docs/tasks.md), comma-separated."
        ),
    ] = "pocket",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Items a family; 0 for all of a benchmark.",
            min=0,
            show_default="50, or all of a list that is shorter",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="test, dev or train, of the families of pocket.")
    ] = "test",
    model: Model = "pocket",
    raw: Raw = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also save the JSON, with every sample, to this file; a run that was stopped goes on.",
            show_default=False,
        ),
    ] = None,
    skip_too_long: Annotated[
        bool,
        typer.Option(
            "--skip-too-long",
            help="Leave out items that do not fit into the model, and say how many.",
        ),
    ] = False,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Score a model with a decoder on held-out items: score by family, NFE, tokens per forward.

    With --out answers are kept in FILE.partial until the file is written, and the same command goes
    on after an interruption.
    """
    import dataclasses

    from creditdecoding.eval.evaluate import evaluate as run
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.tasks import load_tasks
    from creditdecoding.tasks.base import distinct_items

    where = parse_split(split)
    check_writable(out)
    chosen = load_tasks(tasks)
    most = items_per_task(limit, 50, chosen)
    items = [
        item for family in chosen for item in distinct_items(family, where, 0, most)
    ]  # also refuses a limit before the model is loaded
    lm = load_lm(model, engine)
    asked = {
        "generation": dataclasses.asdict(generation),
        "split": split,
        "raw": raw,
        "skip_too_long": skip_too_long,
    }
    with save_answers(
        out, answers_manifest("eval", model, engine, chosen, items, [generation.decoder], **asked)
    ) as kept:
        done = 0 if kept is None else kept.count
        with answer_progress(len(items), done=done, resumable=kept is not None) as on_event:
            report = run(
                lm,
                chosen,
                generation,
                most,
                where,
                0,
                on_event,
                raw,
                skip_too_long,
                None if kept is None else kept.of_setting(""),
            )
        found = report.to_json()
        found["settings"] |= {"model": model, "engine": dataclasses.asdict(engine)}
        if out is not None:
            samples = [sample.to_json() for sample in report.samples]
            write(
                out, json.dumps({**found, "samples": samples}, indent=1, ensure_ascii=False) + "\n"
            )
    if as_json:
        print_json(found)
    else:
        _print_scores(found)


def _print_scores(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("family", "score %", "NFE", "tokens / pass", "tokens / s", "items")
    for name, each in [*found["families"].items(), ("mean", found)]:
        table.add_row(
            name,
            f"{each['score']:.1f}",
            f"{each['nfe']:.1f}",
            f"{each['tpf']:.2f}",
            f"{each['tps']:.1f}",
            str(each["items"]),
        )
    Console().print(table)
    for name, numbers in found.get("skipped_items", {}).items():
        typer.echo(
            f"{name}: {len(numbers)} items left out that do not fit into the model", err=True
        )


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def drift(
    tasks: Annotated[
        str, typer.Option(help="pocket, or families of it, comma-separated.")
    ] = "pocket",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Items a family.", min=1, show_default="50, or all of a list that is shorter"
        ),
    ] = None,
    caches: Annotated[
        str,
        typer.Option(
            help="Caches to set beside none, separated by blanks; by default all that fit the model."
        ),
    ] = "",
    model: Model = "pocket",
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Measure what approximate caches cost in answers: agreement with no cache, score, NFE,
    computed positions.
    """
    from rich.console import Console
    from rich.table import Table

    from creditdecoding.decoding.cache_policy import supported_policies
    from creditdecoding.eval.cache_agreement import drift as measure
    from creditdecoding.tasks import load_tasks

    if generation.cache != "auto":
        raise OptionError(
            "drift measures several caches",
            given=f"--cache {generation.cache}",
            hint="Name them with --caches.",
        )
    chosen, lm = load_tasks(tasks), load_lm(model, engine)
    most = items_per_task(limit, 50, chosen)
    names = caches.split() or [name for name in supported_policies(lm.geometry) if name != "none"]
    with answer_progress(most * len(chosen) * (1 + len(names))) as on_event:
        found = measure(lm, chosen, generation, names, most, on_event=on_event)
    if as_json:
        print_json(found)
        return
    table = Table("cache", "agreement %", "same %", "score %", "NFE", "computed")
    for each in found:
        numbers = (
            f"{each['agreement']:.1f}",
            f"{each['same']:.1f}",
            f"{each['score']:.1f}",
            f"{each['nfe']:.1f}",
            f"{each['computed']:.2f}x",
        )
        table.add_row(each["cache"], *numbers)
    Console().print(table)


@app.command()
@with_options(engine=EngineConfig)
def demo(model: Model = "pocket", *, engine: EngineConfig) -> None:
    """A short tour: one question of several families, answered by standard, threshold and credit
    decoding.

    The fast decoders have a threshold of 0.99, where they lose about a point on the embedded model.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from creditdecoding.tasks.base import distinct_items
    from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS

    console, lm = Console(), load_lm(model, engine)
    specs = ("fixed", "threshold:threshold=0.99", "credit:threshold=0.99")
    passes = dict.fromkeys(specs, 0)
    for family in (SYNTHETIC_TASKS[name] for name in ("facts", "program", "arithmetic", "algebra")):
        item = distinct_items(family, "test", 1, 1)[0]
        console.print(f"\n[bold]{family.title}[/]")
        console.print(Text(item.prompt, style="cyan"))
        table = Table("decoder", "answer", "right", "passes", "speed-up")
        done = {spec: lm.generate(item.prompt, decoder=spec) for spec in specs}
        for spec in specs:
            passes[spec] += done[spec].nfe
            right = "[green]yes[/]" if family.score(done[spec].text, item) else "[red]no[/]"
            table.add_row(
                spec,
                Text(done[spec].text),
                right,
                str(done[spec].nfe),
                f"{done['fixed'].nfe / done[spec].nfe:.1f}x",
            )
        console.print(table)
    summary = ", ".join(
        f"{spec} {count} ({passes['fixed'] / count:.1f}x)" for spec, count in passes.items()
    )
    console.print(f"\nForward passes in all: {summary}", highlight=False)
