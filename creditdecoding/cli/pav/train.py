"""The command pav train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm, print_json, progress
from creditdecoding.cli.checks import made
from creditdecoding.cli.pav import pav
from creditdecoding.config import EngineConfig, FitConfig
from creditdecoding.flags import with_options

if TYPE_CHECKING:
    from creditdecoding.verifier.measures import Measures

Store = Annotated[Path, typer.Argument(metavar="LABELS", help="Labelled states, written by credit pav collect.")]


@pav.command()
@with_options(fit=FitConfig, engine=EngineConfig)
def train(
    labels: Store,
    out: Annotated[Path, typer.Option(help="Folder of the verifier; a run found there goes on where it stopped.")],
    model: Model = "pocket",
    as_json: Json = False,
    *,
    fit: FitConfig,
    engine: EngineConfig,
) -> None:
    """Train a verifier: how likely the base policy ends a begun answer right; measured on problems held out (docs/verifiers.md)."""
    from creditdecoding.verifier.fit import Fit
    from creditdecoding.verifier.measures import measure
    from creditdecoding.verifier.model import Verifier, note
    from creditdecoding.verifier.store import load

    found = load(labels)
    lm = load_lm(model, engine)
    made(out)
    run = Fit(lm, found, fit, out)
    with progress(run.steps, "learning") as tick:
        for _ in range(run.step):
            tick()
        for _ in run.run():
            tick()
    verifier = Verifier.load(out, lm, compile=engine.compile)
    held_out = run.division.held_out
    measures = measure(held_out, verifier.q([label.state for label in held_out]).tolist())
    about = {**verifier.about, "settings": {**verifier.about["settings"], "model": model}, "measures": measures.to_json()}
    note(out, about)
    if as_json:
        print_json({"labels": str(labels), "verifier": str(out), "seconds": round(run.seconds, 1), **about})
    else:
        _print(measures, about["settings"])
    typer.echo(f"wrote {out}", err=True)


def _print(measures: Measures, settings: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    low, high = settings["buckets"]
    typer.echo(f"learned from {low} states with labels below 0.5 and {high} others, in {settings['steps']} steps")
    if not low or not high:
        typer.echo(f"all labels learned from are {'0.5 or more' if high else 'below 0.5'}: there was one bucket instead of two")
    table = Table(f"on {measures.states} states of {measures.problems} problems held out", "", "95% interval")
    names = {
        "brier": "Brier score",
        "base": "the same of the mean label",
        "floor": "the same of a perfect verifier",
        "skill": "share of the way to it",
        "ece": "calibration error",
        "rank": "pairs of states ordered right",
    }
    for name, text in names.items():
        each = getattr(measures, name)
        table.add_row(text, *(["unknown", ""] if each is None else [f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}"]))
    curve = Table("predicted", "frequency", "states")
    for point in measures.curve:
        curve.add_row(f"{point['predicted']:.3f}", f"{point['frequency']:.3f}", f"{point['states']:.0f}")
    console = Console()
    console.print(table)
    console.print(curve)
