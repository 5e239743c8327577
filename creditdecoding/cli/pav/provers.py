"""The command pav provers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import Json, Model, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.pav import pav
from creditdecoding.cli.pav.measure import Store
from creditdecoding.cli.progress import progress
from creditdecoding.cli.render import print_json
from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from creditdecoding.lm import LM
    from creditdecoding.pav.steps import PartialAnswer
    from creditdecoding.pav.verifier.model import Verifier
    from creditdecoding.pav.verifier.provers import Predict, ProverComparison

STATES = 256  # predicted between two ticks of the bar


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
            help="NAME=DIR: the verifier of another checkpoint with the same tokenizer; may be given again."
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
    as_json: Json = False,
    *,
    engine: EngineConfig,
) -> None:
    """Compare provers before compute is spent on one: do they tell steps apart, and do they agree
    with the base policy (docs/verifiers.md)?
    """
    from creditdecoding.pav.data.label_store import load_labels
    from creditdecoding.pav.verifier.fit import check_labels, held_out_labels
    from creditdecoding.pav.verifier.model import Verifier
    from creditdecoding.pav.verifier.provers import (
        best_of_name,
        branchings,
        provers_from_counts,
        provers_from_predictions,
    )

    ks, named, found = _numbers(k), dict(_named(prover or [])), load_labels(labels)
    taken = sorted({best_of_name(each) for each in ks} & set(named))
    if taken:
        raise OptionError(
            "a prover's name is taken by best-of-K",
            given=taken[0],
            hint="Choose another NAME for --prover.",
        )
    lm = load_lm(model, engine)
    check_labels(found, lm)
    base = Verifier.load(verifier, lm, compile=engine.compile)
    others = {name: _prover(folder, lm, engine) for name, folder in named.items()}
    chosen = held_out_labels(base, found)
    seen = branchings(chosen)
    children = sum(len(fork.children) for fork in seen)
    with progress((1 + len(others)) * -(-children // STATES), "predicting") as tick:

        def shown(each: Verifier) -> Predict:
            return lambda states: list(_predicted(each, states, tick))

        choice = provers_from_predictions(
            seen, shown(base), ks, {name: shown(each) for name, each in others.items()}
        )
    counted = provers_from_counts(seen, chosen, ks) if counts else None
    held_out = len(chosen) < len(found.labels)
    if as_json:
        about = {
            "labels": str(labels),
            "model": model,
            "verifier": str(verifier),
            "held_out": held_out,
        }
        print_json(
            {
                **about,
                **choice.to_json(),
                **({} if counted is None else {"counts": counted.to_json()}),
            }
        )
    else:
        _print(choice, counted, held_out)


def _numbers(text: str) -> list[float]:
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise OptionError(
            "--k must be numbers",
            given=text,
            allowed="1 <= K, comma-separated",
            hint="For example --k 1,2,4,8.",
        ) from error


def _named(given: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for text in given:
        name, equals, folder = text.partition("=")
        if not name or not equals or not folder:
            raise OptionError(
                "--prover wants a name and a folder",
                given=text,
                allowed="NAME=DIR",
                hint="For example --prover weak=runs/weak.",
            )
        yield name, Path(folder)


def _prover(folder: Path, lm: LM, engine: EngineConfig) -> Verifier:
    """Another checkpoint's verifier, with that checkpoint; the tokenizer must be the same."""
    from creditdecoding.fingerprint import Identity, check_identity
    from creditdecoding.pav.verifier.model import Verifier, read_verifier

    about, _ = read_verifier(folder)
    check_identity(Identity(**about["identity"]), lm, f"the verifier in {folder}", model=False)
    return Verifier.load(
        folder,
        load_lm(str(about["settings"].get("model", "pocket")), engine),
        compile=engine.compile,
    )


def _predicted(
    verifier: Verifier, states: Sequence[PartialAnswer], tick: Callable[[], None]
) -> Iterator[float]:
    for start in range(0, len(states), STATES):
        yield from verifier.q(states[start : start + STATES]).tolist()
        tick()


def _print(choice: ProverComparison, counted: ProverComparison | None, held_out: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    typer.echo(
        f"{choice.states} states visited more than once, {choice.several} with several next steps, of {choice.problems} problems"
    )
    typer.echo(
        "only problems held out when the verifier was trained"
        if held_out
        else "labels the verifier was not trained on"
    )
    console = Console()
    for title, each in (("predicted", choice), ("counted", counted)):
        if each is None:
            continue
        table = Table(
            f"prover, {title}", "distinguishability", "alignment", "sum", "95% interval of the sum"
        )
        for one in each.provers:
            values = (one.distinguishability, one.alignment, one.total)
            cells = ["unknown" if value is None else f"{value.value:.5f}" for value in values]
            table.add_row(
                one.name,
                *cells,
                "" if one.total is None else f"{one.total.low:.5f} to {one.total.high:.5f}",
            )
        console.print(table)
        for sentence in each.words():
            console.print(Text(sentence))
