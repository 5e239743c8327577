"""The command train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import answer_progress, progress
from creditdecoding.cli.render import report_written, write_json
from creditdecoding.cli.validate import check_can_plot, make_folder
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.train.options import TrainConfig

if TYPE_CHECKING:
    from creditdecoding.eval.saved_answers import SavedAnswers
    from creditdecoding.tasks.base import DefaultLimit, Task
    from creditdecoding.trace import Event
    from creditdecoding.train.loop import TrainingRun

REPORT_DECODERS = ("fixed", "threshold", "credit")
EVAL_DECODER = "threshold:threshold=0.95"
EVAL_BATCH_SIZE = 32


@app.command()
@with_options(training=TrainConfig)
def train(
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a run found there goes on where it stopped.")
    ] = Path("runs/pocket"),
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks to train on: pocket, a generated task (chain, ...), a question file, or "
            "benchmarks: NAME[=PATH]; comma-separated (docs/guide/evaluating.md)."
        ),
    ] = "pocket",
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Begin a new run with the weights and tokenizer of this checkpoint.",
            show_default=False,
        ),
    ] = None,
    eval_limit: Annotated[
        int,
        typer.Option(
            help="Dev items a family in evaluations while training, at most; 0 for none.", min=0
        ),
    ] = 16,
    report_limit: Annotated[
        int, typer.Option(help="Test items a family in the final report, at most.", min=1)
    ] = 200,
    *,
    training: TrainConfig,
) -> None:
    """Train a masked-diffusion model on tasks.

    It ends with report.json and loss.png in the folder of the weights. The same command continues
    an interrupted run.

    Examples:
        credit train --tasks arithmetic,facts --out runs/small
    """
    from creditdecoding.run_dir import locked_folder
    from creditdecoding.tasks import load_tasks
    from creditdecoding.tasks.base import DefaultLimit
    from creditdecoding.train.loop import run_peer
    from creditdecoding.train.parallel import peer_processes

    families = load_tasks(tasks)
    report = out / "report.json"
    picture = out / "loss.png"
    check_can_plot(picture)
    make_folder(out, "report.json", "loss.png", "model.safetensors", "state.pt", "log.jsonl")
    with locked_folder(out):
        run = _open_run(training, families, out, start_from)
        count = sum(weight.numel() for weight in run.model.parameters())
        typer.echo(f"{count:,} parameters, step {run.step} of {training.steps}, {out}", err=True)
        with (
            progress(training.steps, "training", run.step, True, lambda: run.saved_step) as tick,
            peer_processes(training.processes, out / ".peers", run_peer, training, tasks, out),
        ):
            for record in run.run(_evaluator(training, families, DefaultLimit(eval_limit))):
                tick()
                _show_evaluation(record)
        _write_report(run, families, DefaultLimit(report_limit), report, picture)
    report_written(report, picture)


def _open_run(
    training: TrainConfig, families: list[Task], out: Path, start_from: str | None
) -> TrainingRun:
    """The run in this folder, new or to be continued."""
    from creditdecoding.train.checkpoint import start_from_checkpoint
    from creditdecoding.train.loop import TrainingRun
    from creditdecoding.train.tokenizer import task_tokenizer

    if start_from is not None:
        start_from_checkpoint(start_from, out)
    tokenizer = task_tokenizer(families, training.vocabulary, out)
    return TrainingRun(training, tokenizer, families, out)


def _evaluator(
    training: TrainConfig, families: list[Task], limit: DefaultLimit
) -> Callable[[Path], dict[str, Any]] | None:
    """A function that scores the checkpoint in a folder on dev items; None for no items."""
    from creditdecoding.eval.evaluate import evaluate
    from creditdecoding.lm import load
    from creditdecoding.tasks.base import only_split

    tasks = only_split(families, "dev")

    def score(folder: Path) -> dict[str, Any]:
        lm = load(str(folder), threads=training.threads, batch_size=EVAL_BATCH_SIZE)
        config = GenerationConfig(decoder=EVAL_DECODER)
        return evaluate(lm, tasks, config, limit, "dev").to_json()

    return score if limit and tasks else None


def _show_evaluation(record: dict[str, Any]) -> None:
    if "eval" in record:
        score, nfe = record["eval"]["score"], record["eval"]["nfe"]
        typer.echo(f"step {record['step']}: dev score {score}, NFE {nfe}", err=True)


def _write_report(
    run: TrainingRun, families: list[Task], limit: DefaultLimit, report: Path, picture: Path
) -> None:
    """Score the trained model on test items, if the tasks have any; answers are kept until both
    files are written.
    """
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.plots.training import training_png
    from creditdecoding.tasks.base import distinct_items, only_split

    tasks = only_split(families, "test")
    engine = EngineConfig(threads=run.config.threads, batch_size=EVAL_BATCH_SIZE)
    items = [item for task in tasks for item in distinct_items(task, "test", 0, limit)]
    total = len(REPORT_DECODERS) * len(items)
    settings = answers_manifest("train", str(run.folder), engine, tasks, items, REPORT_DECODERS)
    with save_answers(report, settings) as saved:
        assert saved is not None
        with answer_progress(total, "answers for the report", saved.count, True) as on_event:
            scores = _scores(run.folder, engine, tasks, limit, saved, on_event)
            write_json(report, {"training": run.report(), "test": scores})
            training_png(run.records(), picture)


def _scores(
    folder: Path,
    engine: EngineConfig,
    tasks: list[Task],
    limit: DefaultLimit,
    saved: SavedAnswers,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """What each decoder scores on test items, by its name."""
    from creditdecoding.eval.evaluate import evaluate
    from creditdecoding.lm import load

    if not tasks:
        return {}
    lm = load(str(folder), engine)
    scores = {}
    for decoder in REPORT_DECODERS:
        config = GenerationConfig(decoder=decoder)
        answers = saved.of_setting(decoder)
        scored = evaluate(lm, tasks, config, limit, on_event=on_event, saved=answers)
        scores[decoder] = scored.to_json()
    return scores
