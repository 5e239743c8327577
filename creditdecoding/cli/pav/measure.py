"""The command pav measure, and how measures of a verifier are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav import pav
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import print_json
from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from creditdecoding.pav.data.label_store import Label
    from creditdecoding.pav.verifier.metrics import VerifierMetrics

Store = Annotated[
    Path, typer.Argument(metavar="LABELS", help="Labelled states, written by credit pav collect.")
]

ROWS = {
    "brier": "Brier score",
    "base": "the same of the mean label",
    "floor": "the same of a perfect verifier",
    "brier_skill": "share of the way to it, or else to 0",
    "ece": "calibration error",
    "pairwise_accuracy": "pairs of states ordered right",
}


@pav.command()
@with_options(engine=EngineConfig)
def measure(
    labels: Store,
    verifier: Annotated[
        list[Path],
        typer.Option(
            help="Folder of a verifier, or pocket, the embedded one; may be given again to compare some."
        ),
    ],
    model: Model = "pocket",
    as_json: Json = False,
    *,
    engine: EngineConfig,
) -> None:
    """Measure verifiers on labels that they were not trained on, and how they differ; the first is
    what the others are compared with.
    """
    from creditdecoding.pav.data.label_store import load_labels
    from creditdecoding.pav.verifier.fit import check_labels, held_out_labels
    from creditdecoding.pav.verifier.metrics import brier_difference
    from creditdecoding.pav.verifier.metrics import measure as measured
    from creditdecoding.pav.verifier.model import Verifier

    found = load_labels(labels)
    lm = load_lm(model, engine)
    check_labels(found, lm)
    judges = {
        str(folder): Verifier.load(folder, lm, compile=engine.compile)
        for folder in dict.fromkeys(verifier)
    }
    chosen = _common(found.labels, [held_out_labels(judge, found) for judge in judges.values()])
    q = {}
    with progress(len(judges), "predicting") as tick:
        for name, judge in judges.items():
            q[name] = judge.q([label.state for label in chosen]).tolist()
            tick()
    first, *others = judges
    measures = {name: measured(chosen, values) for name, values in q.items()}
    gaps = {name: brier_difference(chosen, q[name], q[first]).rounded(4) for name in others}
    if as_json:
        print_json(
            {
                "labels": str(labels),
                "verifiers": {name: each.to_json() for name, each in measures.items()},
                "brier_above_first": gaps,
            }
        )
        return
    for name, each in measures.items():
        show(each, f"{name}, on {each.states} states of {each.problems} problems")
    for name, above in gaps.items():
        typer.echo(
            f"Brier score of {name} less that of {first}: {above['value']:+.4f} [{above['low']:+.4f}, {above['high']:+.4f}]"
        )


def _common(labels: Sequence[Label], unseen: Sequence[Sequence[Label]]) -> list[Label]:
    """The labels that no verifier was trained on."""
    kept = set.intersection(*map(set, unseen))
    chosen = [label for label in labels if label in kept]
    if not chosen:
        hint = "Collect others, of another --split."
        raise OptionError(
            "there is no label that none of the verifiers was trained on",
            given=f"{len(labels)} labels",
            hint=hint,
        )
    return chosen


def show(measures: VerifierMetrics, title: str) -> None:
    """Print measures as tables."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title, "", "95% interval")
    for name, text in ROWS.items():
        each: Any = getattr(measures, name)
        table.add_row(
            text,
            *(
                ["unknown", ""]
                if each is None
                else [f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}"]
            ),
        )
    curve = Table("predicted", "frequency", "states")
    for point in measures.curve:
        curve.add_row(
            f"{point['predicted']:.3f}", f"{point['frequency']:.3f}", f"{point['states']:.0f}"
        )
    console = Console()
    console.print(table)
    console.print(curve)
