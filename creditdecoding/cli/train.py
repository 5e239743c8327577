"""The command train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import app, progress, write
from creditdecoding.cli.checks import made
from creditdecoding.config import GenerationConfig, TrainConfig
from creditdecoding.flags import with_options


@app.command()
@with_options(training=TrainConfig)
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there goes on where it stopped.")] = Path("runs/pocket"),
    tasks: Annotated[str, typer.Option(help="Families to train on: pocket, or some of it.")] = "pocket",
    start_from: Annotated[
        str | None, typer.Option(help="Begin a new run with the weights and tokenizer of this checkpoint.", show_default=False)
    ] = None,
    eval_limit: Annotated[int, typer.Option(help="Dev items a family in evaluations while training; 0 for none.", min=0)] = 16,
    report_limit: Annotated[int, typer.Option(help="Test items a family in the final report.", min=1)] = 200,
    *,
    training: TrainConfig,
) -> None:
    """Train a masked-diffusion model on the task families; resumable, ends with report.json and loss.png beside the weights."""
    from creditdecoding.eval.runner import evaluate as score
    from creditdecoding.lm import load
    from creditdecoding.tasks import families
    from creditdecoding.train.loop import Run, begin_from, help_run
    from creditdecoding.train.parallel import helpers
    from creditdecoding.train.vocabulary import task_tokenizer

    chosen = families(tasks)
    made(out)

    def measure(folder: Path, decoder: str, limit: int, split: Any) -> dict[str, Any]:
        lm = load(str(folder), threads=training.threads, batch_size=32)
        return score(lm, chosen, GenerationConfig(decoder=decoder), limit, split).to_json()

    if start_from is not None:
        begin_from(start_from, out)
    tokenizer = task_tokenizer(chosen, training.vocabulary, out)
    run = Run(training, tokenizer, chosen, out)
    typer.echo(f"{sum(w.numel() for w in run.model.parameters()):,} parameters, step {run.step} of {training.steps}, {out}", err=True)
    evaluate = (lambda folder: measure(folder, "threshold:threshold=0.95", eval_limit, "dev")) if eval_limit else None
    peers = helpers(training.processes, out / ".peers", help_run, training, chosen, out)
    with progress(training.steps, "training") as tick, peers:
        for _ in range(run.step):
            tick()
        for record in run.run(evaluate):
            tick()
            if "eval" in record:
                typer.echo(f"step {record['step']}: dev score {record['eval']['score']}, NFE {record['eval']['nfe']}", err=True)
    found = {spec: measure(out, spec, report_limit, "test") for spec in ("fixed", "threshold", "credit")}
    write(out / "report.json", json.dumps({"training": run.report(), "test": found}, indent=1) + "\n")
    from creditdecoding.view.plot import loss_curve

    loss_curve(run.records(), out / "loss.png")
    typer.echo(f"wrote {out / 'report.json'} and {out / 'loss.png'}", err=True)
