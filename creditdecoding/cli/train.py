"""The command train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import answer_progress, progress
from creditdecoding.cli.render import write
from creditdecoding.cli.validate import check_can_plot, make_folder
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.train.options import TrainConfig

if TYPE_CHECKING:
    from creditdecoding.tasks.base import Task
    from creditdecoding.train.loop import TrainingRun

REPORTED = ("fixed", "threshold", "credit")
"""The decoders that the report scores."""


@app.command()
@with_options(training=TrainConfig)
def train(
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a run found there goes on where it stopped.")
    ] = Path("runs/pocket"),
    tasks: Annotated[
        str, typer.Option(help="Families to train on: pocket, or some of it.")
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
        typer.Option(help="Dev items a family in evaluations while training; 0 for none.", min=0),
    ] = 16,
    report_limit: Annotated[
        int, typer.Option(help="Test items a family in the final report.", min=1)
    ] = 200,
    *,
    training: TrainConfig,
) -> None:
    """Train a masked-diffusion model on the task families; resumable, ends with report.json and
    loss.png beside the weights.
    """
    from creditdecoding.eval.evaluate import evaluate as score
    from creditdecoding.lm import load
    from creditdecoding.run_dir import locked_file
    from creditdecoding.tasks import load_tasks
    from creditdecoding.train.loop import run_peer
    from creditdecoding.train.parallel import peer_processes

    chosen = load_tasks(tasks)
    check_can_plot(out / "loss.png")
    make_folder(out, "report.json", "loss.png", "model.safetensors", "state.pt", "log.jsonl")

    def evaluate(folder: Path) -> dict[str, Any]:
        lm = load(str(folder), threads=training.threads, batch_size=32)
        return score(
            lm, chosen, GenerationConfig(decoder="threshold:threshold=0.95"), eval_limit, "dev"
        ).to_json()

    with locked_file(out / ".lock", "Wait for it, or choose another --out."):
        run = _begun(training, chosen, out, start_from)
        count = sum(weight.numel() for weight in run.model.parameters())
        typer.echo(f"{count:,} parameters, step {run.step} of {training.steps}, {out}", err=True)
        peers = peer_processes(training.processes, out / ".peers", run_peer, training, chosen, out)
        with (
            progress(training.steps, "training", run.step, True, lambda: run.saved_step) as tick,
            peers,
        ):
            for record in run.run(evaluate if eval_limit else None):
                tick()
                if "eval" in record:
                    typer.echo(
                        f"step {record['step']}: dev score {record['eval']['score']}, NFE {record['eval']['nfe']}",
                        err=True,
                    )
        _report(run, chosen, report_limit)
    typer.echo(f"wrote {out / 'report.json'} and {out / 'loss.png'}", err=True)


def _begun(
    training: TrainConfig, families: list[Task], out: Path, start_from: str | None
) -> TrainingRun:
    """The run in this folder, new or taken up."""
    from creditdecoding.train.loop import TrainingRun, start_from_checkpoint
    from creditdecoding.train.tokenizer import task_tokenizer

    if start_from is not None:
        start_from_checkpoint(start_from, out)
    tokenizer = task_tokenizer(families, training.vocabulary, out)
    return TrainingRun(training, tokenizer, families, out)


def _report(run: TrainingRun, families: list[Task], limit: int) -> None:
    """Score the trained model on test items; write report.json and loss.png. Answers are kept until
    both are written.
    """
    from creditdecoding.eval.evaluate import evaluate
    from creditdecoding.eval.saved_answers import answers_manifest, save_answers
    from creditdecoding.lm import load
    from creditdecoding.plots.training import training_png
    from creditdecoding.tasks.base import distinct_items

    out = run.folder
    engine = EngineConfig(threads=run.config.threads, batch_size=32)
    items = [item for family in families for item in distinct_items(family, "test", 0, limit)]
    lm = load(str(out), engine)
    total = len(REPORTED) * len(items)
    with save_answers(
        out / "report.json", answers_manifest("train", str(out), engine, families, items, REPORTED)
    ) as kept:
        assert kept is not None
        with answer_progress(total, "answers for the report", kept.count, True) as on_event:
            found = {}
            for spec in REPORTED:
                config = GenerationConfig(decoder=spec)
                scored = evaluate(
                    lm, families, config, limit, on_event=on_event, saved=kept.of_setting(spec)
                )
                found[spec] = scored.to_json()
            write(
                out / "report.json",
                json.dumps({"training": run.report(), "test": found}, indent=1) + "\n",
            )
            training_png(run.records(), out / "loss.png")
