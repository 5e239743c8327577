"""The command eval."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, Raw, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.limits import items_per_task
from creditdecoding.cli.progress import answer_progress, open_progress
from creditdecoding.cli.quality import Agreement, Base, find_base, load_judge, show_quality
from creditdecoding.cli.render import number, print_json, show, table, write_json
from creditdecoding.cli.validate import check_writable, parse_split
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.wording import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from creditdecoding.eval.evaluate import EvalReport
    from creditdecoding.lm import LM
    from creditdecoding.tasks.base import Item, Split, Task


NO_LIKELIHOOD = (
    "the model's base is not known: the likelihood of its open text is left out; "
    "name one with --base"
)


@app.command("eval")
@with_options(generation=GenerationConfig, engine=EngineConfig)
def evaluate(
    tasks: Annotated[
        str,
        typer.Option(
            help="pocket, pocket-v2, lists, a generated task (chain, ...), a question file, or "
            "benchmarks: NAME[=PATH]; comma-separated (docs/guide/evaluating.md)."
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
    split: Annotated[str, typer.Option(help="test, dev or train, of generated tasks.")] = "test",
    model: Model = "pocket",
    raw: Raw = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also save the JSON, with every sample, to this file; an interrupted run "
            "continues.",
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
    base: Base = None,
    agreement: Agreement = False,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Score a model with a decoder on tasks.

    With --base it also measures the text itself, as always for a file of prompts alone. With --out
    answers are kept in FILE.partial until the file is written, and the same command continues an
    interrupted run.

    Examples:
        credit eval --tasks arithmetic,facts --limit 20
        credit eval --tasks pocket --decoder fixed --out scores.json
        credit eval --model DIR --tasks gsm8k=test.jsonl --limit 100
    """
    from creditdecoding.eval.evaluate import evaluate as run
    from creditdecoding.eval.quality import eval_quality
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.tasks import load_tasks

    item_split = parse_split(split)
    check_writable(out)
    loaded_tasks = load_tasks(tasks, open_text=True)
    count = items_per_task(limit, 50, loaded_tasks)
    # drawn here too so that a bad limit is refused before the model is loaded
    items = _draw_items(loaded_tasks, item_split, count)
    base = find_base(base, model, engine)
    lm = load_lm(model, engine)
    manifest = answers_manifest(
        "eval",
        model,
        engine,
        loaded_tasks,
        items,
        [generation.decoder],
        generation=dataclasses.asdict(generation),
        split=split,
        raw=raw,
        skip_too_long=skip_too_long,
    )
    with save_answers(out, manifest) as saved:
        done = 0 if saved is None else saved.count
        with answer_progress(len(items), done=done, resumable=saved is not None) as on_event:
            report = run(
                lm,
                loaded_tasks,
                generation,
                count,
                item_split,
                on_event=on_event,
                raw=raw,
                skip_too_long=skip_too_long,
                saved=None if saved is None else saved.of_setting(""),
            )
        numbers = report.to_json()
        numbers["settings"] |= {"model": model, "engine": dataclasses.asdict(engine)}
        if base is not None or agreement or _has_open_text(items, base):
            standard = _standard_texts(lm, loaded_tasks, report, generation, raw, agreement)
            judge = load_judge(base, engine)
            numbers["quality"] = {
                "base": None if judge is None else judge.name,
                **eval_quality(report.samples, standard, judge, raw),
            }
        if out is not None:
            samples = [sample.to_json() for sample in report.samples]
            write_json(out, {**numbers, "samples": samples})
    if as_json:
        print_json(numbers)
    else:
        print_scores(numbers)


def _draw_items(tasks: Sequence[Task], split: Split, limit: int) -> list[Item]:
    """The items of all tasks. Raises `OptionError`."""
    from creditdecoding.tasks.base import distinct_items

    with open_progress("items", preparing="drawing the items"):
        return [item for task in tasks for item in distinct_items(task, split, 0, limit)]


def _has_open_text(items: Sequence[Item], base: str | None) -> bool:
    """Whether some items are open text; says what cannot be measured of it without a base."""
    is_open = any(item.is_open for item in items)
    if is_open and base is None:
        typer.echo(NO_LIKELIHOOD, err=True)
    return is_open


def _standard_texts(
    lm: LM,
    tasks: Sequence[Task],
    report: EvalReport,
    generation: GenerationConfig,
    raw: bool,
    agreement: bool,
) -> list[str] | None:
    """The answers of standard decoding to the items of a report; None without `agreement`."""
    from creditdecoding.eval.evaluate import answer_items
    from creditdecoding.eval.sweep import REFERENCE

    if not agreement:
        return None
    items = [sample.item for sample in report.samples]
    options = dataclasses.replace(generation, decoder=REFERENCE)
    with answer_progress(len(items), "answers of standard decoding") as on_event:
        samples = answer_items(lm, tasks, items, options, on_event, raw)
    return [sample.completion.text for sample in samples]


def print_scores(report: dict[str, Any]) -> None:
    """The numbers by task, and how many items were left out."""
    columns = ("family", "score %", "NFE", "tokens / pass", "tokens / s", "items")
    forms = {"score": ".1f", "nfe": ".1f", "tpf": ".2f", "tps": ".1f", "items": "d"}
    rows = [
        (name, *(number(numbers[key], form) for key, form in forms.items()))
        for name, numbers in [*report["families"].items(), ("mean", report)]
    ]
    show(table(columns, rows))
    if "quality" in report:
        quality = report["quality"]
        decoder = report["settings"].get("decoder", {})
        show_quality({decoder.get("name", "decoder"): quality}, quality["base"])
    for name, left_out in report.get("skipped_items", {}).items():
        items = count(len(left_out), "item")
        typer.echo(f"{name}: {items} left out, too long for the model", err=True)
