"""The command pav collect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav.app import pav
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import print_json, report_written
from creditdecoding.cli.validate import check_writable
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.pav.data.options import CollectConfig
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.pav.data.label_store import Label, StoreContents


@pav.command()
@with_options(collecting=CollectConfig, generation=GenerationConfig, engine=EngineConfig)
def collect(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="The store of labels, as JSONL; an unfinished one is continued."
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks, benchmarks, or a file of your own questions (docs/guide/evaluating.md), "
            "comma-separated."
        ),
    ] = "arithmetic",
    model: Model = "pocket",
    as_json: Json = False,
    *,
    collecting: CollectConfig,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Label partial answers by how often completions are right.

    Completions are sampled with --decoder and --temperature.

    Examples:
        credit pav collect labels.jsonl --tasks chain --limit 50 --temperature 0.7
    """
    from creditdecoding.pav.data.collect import fill, header, problems_of
    from creditdecoding.pav.data.label_store import open_store
    from creditdecoding.tasks import load_tasks

    check_writable(out)
    task_list = load_tasks(tasks)
    lm = load_lm(model, engine)
    problems = problems_of(lm, task_list, collecting, generation)
    first_line = header(lm, model, task_list, problems, collecting, generation, engine)
    with (
        open_store(out, first_line) as store,
        open_progress("problems", resumable=True) as start,
    ):
        tick = start(len(store.contents.labels), len(problems))
        fill(store, lm, problems, collecting, generation, tick)
    report = {"model": model, **_report(store.contents)}
    if as_json:
        print_json(report)
    else:
        _print(report)
    report_written(out)


def _report(contents: StoreContents) -> dict[str, Any]:
    """Counts of labels, and their cost."""
    labels = [label for labels in contents.labels.values() for label in labels]
    states = [label for label in labels if not label.state.done]
    answers = [label for label in labels if label.state.done]
    right = Counter(map(_share_right, states))
    cost = contents.cost.to_json()
    seconds = cost["seconds"]
    return {
        "problems": len(contents.labels),
        "labels": len(labels),
        "states": len(states),
        "states_right": {name: right[name] for name in ("none", "some", "all")},
        "answers": len(answers),
        "answers_right": sum(label.wins for label in answers),
        "answers_cut_off": sum(label.state.reason == "length" for label in answers),
        **cost,
        "rollouts_per_second": round(cost["rollouts"] / seconds, 2) if seconds else 0.0,
    }


def _share_right(label: Label) -> str:
    if label.wins == label.draws:
        return "all"
    return "some" if label.wins else "none"


def _print(report: dict[str, Any]) -> None:
    right = report["states_right"]
    typer.echo(
        f"{count(report['labels'], 'label')} of {count(report['problems'], 'problem')}: "
        f"{count(report['states'], 'state')}, {count(report['answers'], 'complete answer')}"
    )
    typer.echo(
        f"states: {right['none']} with no completion right, {right['some']} with some, "
        f"{right['all']} with all"
    )
    cut_off = report["answers_cut_off"]
    cut_off_text = f", {cut_off} cut off by --gen-length" if cut_off else ""
    typer.echo(f"answers: {report['answers_right']} right{cut_off_text}")
    typer.echo(
        f"cost: {count(report['rollouts'], 'rollout')}, "
        f"{count(report['sequences'], 'sequence-forward')} "
        f"({count(report['passes'], 'pass', 'passes')} of rows), "
        f"{count(report['positions'], 'position')}, {count(report['tokens'], 'token')}, "
        f"{report['seconds']:.1f} s, "
        f"{report['rollouts_per_second']:.1f} rollouts/s"
    )
