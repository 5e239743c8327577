"""The command pav train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav import pav
from creditdecoding.cli.pav.measure import Store, show
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import print_json
from creditdecoding.cli.validate import check_folder, make_folder
from creditdecoding.config import EngineConfig
from creditdecoding.pav.verifier.options import FitConfig


@pav.command()
@with_options(fit=FitConfig, engine=EngineConfig)
def train(
    labels: Store,
    out: Annotated[
        Path,
        typer.Option(help="Folder of the verifier; a run found there goes on where it stopped."),
    ],
    model: Model = "pocket",
    as_json: Json = False,
    *,
    fit: FitConfig,
    engine: EngineConfig,
) -> None:
    """Train a verifier: how likely the base policy ends a begun answer right; measured on problems
    held out (docs/verifiers.md).
    """
    from creditdecoding.pav.data.label_store import load_labels
    from creditdecoding.pav.verifier.fit import VerifierTraining
    from creditdecoding.pav.verifier.metrics import measure
    from creditdecoding.pav.verifier.model import Verifier, write_about
    from creditdecoding.run_dir import locked_file

    check_folder(out, "state.pt", "log.jsonl", "model.safetensors", "verifier.json")
    found = load_labels(labels)
    lm = load_lm(model, engine)
    make_folder(out)
    with locked_file(out / ".lock", "Wait for it, or choose another --out."):
        run = VerifierTraining(lm, found, fit, out)
        with progress(run.steps, "learning", run.step, True, lambda: run.saved) as tick:
            for _ in run.run():
                tick()
            verifier = Verifier.load(out, lm, compile=engine.compile)
            held_out = run.division.held_out
            measures = measure(held_out, verifier.q([label.state for label in held_out]).tolist())
            about = {
                **verifier.about,
                "settings": {**verifier.about["settings"], "model": model},
                "measures": measures.to_json(),
            }
            write_about(out, about)
    if as_json:
        print_json(
            {"labels": str(labels), "verifier": str(out), "seconds": round(run.seconds, 1), **about}
        )
    else:
        _learned(about["settings"])
        show(measures, f"on {measures.states} states of {measures.problems} problems held out")
    typer.echo(f"wrote {out}", err=True)


def _learned(settings: dict[str, Any]) -> None:
    low, high = settings["buckets"]
    typer.echo(
        f"learned from {low} states with labels below 0.5 and {high} others, in {settings['steps']} steps"
    )
    if not low or not high:
        typer.echo(
            f"all labels learned from are {'0.5 or more' if high else 'below 0.5'}: there was one bucket instead of two"
        )
