"""The command pav measure, and the table of a verifier's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav.app import pav
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import print_json, report_written, show, table, write_json
from creditdecoding.cli.validate import check_writable
from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.bootstrap import Interval
    from creditdecoding.pav.data.label_store import Label
    from creditdecoding.pav.verifier.metrics import VerifierMetrics
    from creditdecoding.pav.verifier.model import Verifier
    from creditdecoding.pav.verifier.saved_predictions import SavedPredictions

Store = Annotated[
    Path, typer.Argument(metavar="LABELS", help="Labelled states, written by credit pav collect.")
]
Report = Annotated[
    Path | None,
    typer.Option(
        help="Also save the JSON to this file; an interrupted run continues.", show_default=False
    ),
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
    out: Report = None,
    as_json: Json = False,
    *,
    engine: EngineConfig,
) -> None:
    """Measure verifiers on labels they were not trained on.

    Each is compared with the first. With --out predictions are kept in FILE.partial until the file
    is written, and the same command continues an interrupted run.

    Examples:
        credit pav measure labels.jsonl --verifier pocket --verifier runs/verifier
    """
    from creditdecoding.pav.data.label_store import load_labels
    from creditdecoding.pav.verifier.fit import check_labels, held_out_labels
    from creditdecoding.pav.verifier.model import Verifier
    from creditdecoding.pav.verifier.saved_predictions import predictions_manifest, save_predictions

    check_writable(out)
    store = load_labels(labels)
    lm = load_lm(model, engine)
    check_labels(store, lm)
    folders = {str(folder): folder for folder in verifier}
    verifiers = {
        name: Verifier.load(folder, lm, compile=engine.compile) for name, folder in folders.items()
    }
    held_out = _common_labels(
        store.labels, [held_out_labels(one, store) for one in verifiers.values()]
    )
    manifest = predictions_manifest("pav measure", labels, model, engine, folders)
    with save_predictions(out, manifest) as saved:
        q = _predict(verifiers, held_out, saved, resumable=out is not None)
        comparison = _compare(held_out, q)
        report = {"labels": str(labels), **comparison.to_json()}
        if out is not None:
            write_json(out, report)
    if as_json:
        print_json(report)
    else:
        comparison.show()
    report_written(out)


def _predict(
    verifiers: Mapping[str, Verifier],
    labels: Sequence[Label],
    saved: SavedPredictions,
    resumable: bool,
) -> dict[str, list[float]]:
    """Q of the state of each label under each verifier."""
    from creditdecoding.pav.verifier.saved_predictions import count_parts

    states = [label.state for label in labels]
    parts = count_parts(len(states)) * len(verifiers)
    with progress(parts, "predicting", len(saved.records), resumable) as tick:
        return {name: saved.predict(name, one, states, tick) for name, one in verifiers.items()}


@dataclass(frozen=True)
class _VerifierComparison:
    """The metrics of verifiers, and the Brier scores of all above that of the first."""

    metrics: Mapping[str, VerifierMetrics]
    differences: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "verifiers": {name: one.to_json() for name, one in self.metrics.items()},
            "brier_above_first": {name: one.rounded(4) for name, one in self.differences.items()},
        }

    def show(self) -> None:
        """Print a table for each verifier, and one of the differences."""
        for name, measured in self.metrics.items():
            problems = count(measured.problems, "problem")
            show_metrics(measured, f"{name}, on {count(measured.states, 'state')} of {problems}")
        if self.differences:
            first = next(iter(self.metrics))
            rows = [(name, *_interval_cells(one, "+.4f")) for name, one in self.differences.items()]
            show(table((f"Brier score minus that of {first}", "", "95 % interval"), rows))


def _compare(labels: Sequence[Label], q: Mapping[str, Sequence[float]]) -> _VerifierComparison:
    from creditdecoding.pav.verifier.metrics import brier_difference
    from creditdecoding.pav.verifier.metrics import measure as measure_verifier

    first, *others = q
    return _VerifierComparison(
        {name: measure_verifier(labels, values) for name, values in q.items()},
        {name: brier_difference(labels, q[name], q[first]) for name in others},
    )


def _common_labels(labels: Sequence[Label], held_out: Sequence[Sequence[Label]]) -> list[Label]:
    """The labels that no verifier was trained on."""
    kept = set.intersection(*map(set, held_out))
    common = [label for label in labels if label in kept]
    if not common:
        raise OptionError(
            "there is no label that none of the verifiers was trained on",
            given=count(len(labels), "label"),
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
