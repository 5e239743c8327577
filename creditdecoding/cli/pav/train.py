"""The command pav train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav.app import pav
from creditdecoding.cli.pav.measure import Store, show_metrics
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import print_json, report_written
from creditdecoding.cli.validate import check_folder, make_folder
from creditdecoding.config import EngineConfig
from creditdecoding.pav.verifier.options import FitConfig
from creditdecoding.wording import count


@pav.command()
@with_options(fit=FitConfig, engine=EngineConfig)
def train(
    labels: Store,
    out: Annotated[
        Path,
        typer.Option(help="Folder of the verifier; an interrupted run in it is continued."),
    ],
    model: Model = "pocket",
    as_json: Json = False,
    *,
    fit: FitConfig,
    engine: EngineConfig,
) -> None:
    """Train a verifier on labels.

    It predicts how likely the base policy ends a partial answer correctly, and is measured on
    held-out problems (docs/research/verifiers.md). The same command continues an interrupted run.

    Examples:
        credit pav train labels.jsonl --out runs/verifier
    """
    from creditdecoding.pav.data.label_store import load_labels
    from creditdecoding.pav.verifier.fit import VerifierTraining
    from creditdecoding.pav.verifier.metrics import measure
    from creditdecoding.pav.verifier.model import Verifier, write_about
    from creditdecoding.run_dir import locked_folder

    check_folder(out, "state.pt", "log.jsonl", "model.safetensors", "verifier.json")
    store = load_labels(labels)
    lm = load_lm(model, engine)
    make_folder(out)
    with locked_folder(out):
        run = VerifierTraining(lm, store, fit, out)
        with progress(run.steps, "learning", run.step, True, lambda: run.saved) as tick:
            for _ in run.run():
                tick()
            verifier = Verifier.load(out, lm, compile=engine.compile)
            held_out = run.split.held_out
            metrics = measure(held_out, verifier.q([label.state for label in held_out]).tolist())
            settings = {**verifier.about["settings"], "model": model}
            about = {**verifier.about, "settings": settings, "measures": metrics.to_json()}
            write_about(out, about)
    if as_json:
        seconds = round(run.seconds, 1)
        print_json({"labels": str(labels), "verifier": str(out), "seconds": seconds, **about})
    else:
        _print_buckets(settings)
        problems = count(metrics.problems, "problem")
        title = f"on {count(metrics.states, 'state')} of {problems} held out"
        show_metrics(metrics, title)
    report_written(out)


def _print_buckets(settings: dict[str, Any]) -> None:
    low, high = settings["buckets"]
    typer.echo(
        f"learned from {count(low, 'state')} with labels below 0.5 and {high} others, in "
        f"{count(settings['steps'], 'step')}"
    )
    if not low or not high:
        typer.echo("all labels are on one side of 0.5: there was one bucket instead of two")
