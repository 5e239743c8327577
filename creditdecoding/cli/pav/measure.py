"""The command pav measure, and the table of a verifier's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav.app import pav
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import print_json, show, table
from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from creditdecoding.bootstrap import Interval
    from creditdecoding.pav.data.label_store import Label
    from creditdecoding.pav.verifier.metrics import VerifierMetrics

Store = Annotated[
    Path, typer.Argument(metavar="LABELS", help="Labelled states, written by credit pav collect.")
]


@pav.command()
@with_options(engine=EngineConfig)
def measure(
    labels: Store,
    verifier: Annotated[
        list[Path],
        typer.Option(
            help="Folder of a verifier, or pocket, the embedded one; give it again to compare "
            "several."
        ),
    ],
    model: Model = "pocket",
    as_json: Json = False,
    *,
    engine: EngineConfig,
) -> None:
    """Measure verifiers on labels they were not trained on, and compare each with the first."""
    from creditdecoding.pav.data.label_store import load_labels
    from creditdecoding.pav.verifier.fit import check_labels, held_out_labels
    from creditdecoding.pav.verifier.metrics import brier_difference
    from creditdecoding.pav.verifier.metrics import measure as measure_verifier
    from creditdecoding.pav.verifier.model import Verifier

    store = load_labels(labels)
    lm = load_lm(model, engine)
    check_labels(store, lm)
    verifiers = {
        str(folder): Verifier.load(folder, lm, compile=engine.compile) for folder in verifier
    }
    held_out = _common_labels(
        store.labels, [held_out_labels(one, store) for one in verifiers.values()]
    )
    q = {}
    with progress(len(verifiers), "predicting") as tick:
        for name, one in verifiers.items():
            q[name] = one.q([label.state for label in held_out]).tolist()
            tick()
    first, *others = verifiers
    metrics = {name: measure_verifier(held_out, values) for name, values in q.items()}
    differences = {name: brier_difference(held_out, q[name], q[first]) for name in others}
    if as_json:
        report = {
            "labels": str(labels),
            "verifiers": {name: one.to_json() for name, one in metrics.items()},
            "brier_above_first": {name: one.rounded(4) for name, one in differences.items()},
        }
        print_json(report)
        return
    for name, measured in metrics.items():
        show_metrics(
            measured, f"{name}, on {measured.states} states of {measured.problems} problems"
        )
    if differences:
        rows = [(name, *_interval_cells(one, "+.4f")) for name, one in differences.items()]
        show(table((f"Brier score minus that of {first}", "", "95 % interval"), rows))


def _common_labels(labels: Sequence[Label], held_out: Sequence[Sequence[Label]]) -> list[Label]:
    """The labels that no verifier was trained on."""
    kept = set.intersection(*map(set, held_out))
    common = [label for label in labels if label in kept]
    if not common:
        raise OptionError(
            "there is no label that none of the verifiers was trained on",
            given=f"{len(labels)} labels",
            hint="Collect others, of another --split.",
        )
    return common


def _interval_cells(interval: Interval | None, form: str = ".4f") -> tuple[str, str]:
    if interval is None:
        return ("-", "")
    low, high = format(interval.low, form), format(interval.high, form)
    return (format(interval.value, form), f"{low} to {high}")


def show_metrics(metrics: VerifierMetrics, title: str) -> None:
    """Print the metrics and the calibration curve of a verifier."""
    intervals = {
        "Brier score": metrics.brier,
        "Brier score of the mean label": metrics.base,
        "Brier score of a perfect verifier": metrics.floor,
        "Brier skill": metrics.brier_skill,
        "calibration error": metrics.ece,
        "pairwise accuracy": metrics.pairwise_accuracy,
    }
    rows = [(name, *_interval_cells(interval)) for name, interval in intervals.items()]
    curve = [
        (f"{point['predicted']:.3f}", f"{point['frequency']:.3f}", f"{point['states']:.0f}")
        for point in metrics.curve
    ]
    show(
        table((title, "", "95 % interval"), rows),
        table(("predicted", "frequency", "states"), curve),
    )
