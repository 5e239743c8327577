"""The command pav provers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav.app import pav
from creditdecoding.cli.pav.measure import Report, Store
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import number, print_json, report_written, show, table, write_json
from creditdecoding.cli.validate import check_writable
from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.lm import LM
    from creditdecoding.pav.verifier.model import Verifier
    from creditdecoding.pav.verifier.provers import Branching, Prover, ProverComparison
    from creditdecoding.pav.verifier.saved_predictions import SavedPredictions

BASE = ""
"""The base policy's verifier, which has no name, among the saved predictions."""


@pav.command()
@with_options(engine=EngineConfig)
def provers(
    labels: Store,
    verifier: Annotated[
        Path,
        typer.Option(help="Folder of the base policy's verifier, or pocket, the embedded one."),
    ],
    k: Annotated[
        str,
        typer.Option(
            "--k", help="Best-of-K provers, comma-separated; 1 is the base policy itself."
        ),
    ] = "1,2,4,8,16,32",
    prover: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=DIR: the verifier of another checkpoint with the same tokenizer; may be "
            "given again."
        ),
    ] = None,
    counts: Annotated[
        bool,
        typer.Option(
            "--counts",
            help="Also from the counts themselves, without their noise and without a verifier.",
        ),
    ] = False,
    model: Model = "pocket",
    out: Report = None,
    as_json: Json = False,
    *,
    engine: EngineConfig,
) -> None:
    """Compare provers before compute is spent on one.

    Do they tell steps apart, and do they agree with the base policy (docs/research/verifiers.md)?
    With --out predictions are kept in FILE.partial until the file is written, and the same command
    continues an interrupted run.

    Examples:
        credit pav provers labels.jsonl --verifier pocket --k 1,2,4
    """
    from creditdecoding.pav.data.label_store import load_labels
    from creditdecoding.pav.verifier.fit import check_labels, held_out_labels
    from creditdecoding.pav.verifier.model import Verifier
    from creditdecoding.pav.verifier.provers import (
        best_of_name,
        branchings,
        provers_from_counts,
    )
    from creditdecoding.pav.verifier.saved_predictions import predictions_manifest, save_predictions

    check_writable(out)
    ks = _parse_ks(k)
    folders = dict(_parse_prover(text) for text in prover or [])
    taken = sorted({best_of_name(one) for one in ks} & set(folders))
    if taken:
        raise OptionError(
            "a prover's name is taken by best-of-K",
            given=taken[0],
            hint="Choose another NAME for --prover.",
        )
    store = load_labels(labels)
    lm = load_lm(model, engine)
    check_labels(store, lm)
    base = Verifier.load(verifier, lm, compile=engine.compile)
    others = {name: _load_prover(folder, lm, engine) for name, folder in folders.items()}
    held_out = held_out_labels(base, store)
    forks = branchings(held_out)
    counted = provers_from_counts(forks, held_out, ks) if counts else None
    is_held_out = len(held_out) < len(store.labels)
    manifest = predictions_manifest(
        "pav provers", labels, model, engine, {BASE: verifier, **folders}
    )
    with save_predictions(out, manifest) as saved:
        predicted = _predict(forks, base, others, ks, saved, resumable=out is not None)
        report = {
            "labels": str(labels),
            "model": model,
            "verifier": str(verifier),
            "held_out": is_held_out,
            **predicted.to_json(),
            **({} if counted is None else {"counts": counted.to_json()}),
        }
        if out is not None:
            write_json(out, report)
    if as_json:
        print_json(report)
    else:
        _print(predicted, counted, is_held_out)
    report_written(out)


def _parse_ks(text: str) -> list[float]:
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise OptionError(
            "--k must be numbers",
            given=text,
            allowed="1 <= K, comma-separated",
            hint="For example --k 1,2,4,8.",
        ) from error


def _parse_prover(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise OptionError(
            "--prover needs a name and a folder",
            given=text,
            allowed="NAME=DIR",
            hint="For example --prover weak=runs/weak.",
        )
    return name, Path(folder)


def _load_prover(folder: Path, lm: LM, engine: EngineConfig) -> Verifier:
    """The verifier of another checkpoint, with that checkpoint; the tokenizer must be the same."""
    from creditdecoding.fingerprint import Identity, check_identity
    from creditdecoding.pav.verifier.model import Verifier, read_verifier

    about, _ = read_verifier(folder)
    check_identity(Identity(**about["identity"]), lm, f"the verifier in {folder}", model=False)
    model = str(about["settings"].get("model", "pocket"))
    return Verifier.load(folder, load_lm(model, engine), compile=engine.compile)


def _predict(
    forks: Sequence[Branching],
    base: Verifier,
    others: Mapping[str, Verifier],
    ks: Sequence[float],
    saved: SavedPredictions,
    resumable: bool,
) -> ProverComparison:
    from creditdecoding.pav.verifier.provers import provers_from_predictions
    from creditdecoding.pav.verifier.saved_predictions import count_parts

    parts = count_parts(sum(len(fork.children) for fork in forks)) * (1 + len(others))
    with progress(parts, "predicting", len(saved.records), resumable) as tick:
        return provers_from_predictions(
            forks,
            partial(saved.predict, BASE, base, tick=tick),
            ks,
            {name: partial(saved.predict, name, one, tick=tick) for name, one in others.items()},
        )


def _print(
    predicted: ProverComparison, counted: ProverComparison | None, is_held_out: bool
) -> None:
    typer.echo(
        f"{count(predicted.states, 'state')} visited more than once, {predicted.several} with "
        f"several next steps, of {count(predicted.problems, 'problem')}"
    )
    if is_held_out:
        typer.echo("only problems held out when the verifier was trained")
    else:
        typer.echo("labels the verifier was not trained on")
    for title, comparison in (("predicted", predicted), ("counted", counted)):
        if comparison is None:
            continue
        columns = ("distinguishability", "alignment", "sum", "95 % interval of the sum")
        rows = [_cells(prover) for prover in comparison.provers]
        show(table((f"prover, {title}", *columns), rows), comparison.verdict)


def _cells(prover: Prover) -> tuple[str, ...]:
    values = (prover.distinguishability, prover.alignment, prover.total)
    cells = [number(None if value is None else value.value, ".5f") for value in values]
    total = prover.total
    interval = "" if total is None else f"{total.low:.5f} to {total.high:.5f}"
    return (prover.name, *cells, interval)
