"""The command `python -m experiments.smol`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from creditdecoding.cli.app import main
from creditdecoding.cli.help import CreditTyper
from creditdecoding.cli.render import report_written, write
from creditdecoding.cli.validate import make_folder
from creditdecoding.train.adapt_data import load_sources
from experiments.smol.lists import list_question
from experiments.smol.texts import Pair, everyday, extraction, rewriting
from experiments.smol.worked import worked_answers

command = CreditTyper(add_completion=False)

COUNTS: Mapping[str, tuple[Callable[[random.Random], Pair], int]] = {
    "lists": (list_question, 12_000),
    "extraction": (extraction, 5_000),
    "rewriting": (rewriting, 5_000),
    "everyday": (everyday, 700),
}
"""What is made, and how many of it."""
WORKED = 6_000
MOST_REPEATS = 1_000
"""Pairs in a row that were there before; then there are no more."""


@command.command()
def smol(
    out: Annotated[Path, typer.Option(help="Folder of the data files.")] = Path("runs/smol-data"),
    seed: Annotated[int, typer.Option(help="Draws the data.", min=0)] = 5,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Questions a file, at most.", min=1, show_default="what smol was trained on"
        ),
    ] = None,
    worked: Annotated[
        bool,
        typer.Option(help="Also write worked answers; they need the package reasoning-gym."),
    ] = True,
    chat: Annotated[
        Path | None,
        typer.Option(
            help="Also write the held-out questions of this file of conversations.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the data that smol is trained on: a file of conversations for `credit adapt --data` of
    each kind, and the questions that it holds out of them for `credit compare --tasks`.
    """
    makers: dict[str, tuple[Iterable[Pair], int]] = {
        name: (_endless(make, f"{seed}/{name}"), count) for name, (make, count) in COUNTS.items()
    }
    if worked:
        makers["worked"] = (worked_answers(seed), WORKED)
    make_folder(out)
    for name, (endless, count) in makers.items():
        path = out / f"{name}.jsonl"
        pairs = list(distinct(endless, min(count, limit or count)))
        write(path, _lines(map(_conversation, pairs)))
        typer.echo(f"{path}: {len(pairs):,} conversations", err=True)
        _write_held_out(path, out / f"{name}-held-out.jsonl", is_open=name == "worked")
    if chat is not None:
        _write_held_out(chat, out / "chat-held-out.jsonl", is_open=True)


def _endless(make: Callable[[random.Random], Pair], seed: str) -> Iterator[Pair]:
    return iter(partial(make, random.Random(seed)), None)


def distinct(pairs: Iterable[Pair], count: int) -> Iterator[Pair]:
    """The first `count` pairs with different questions; fewer if hardly any new ones come."""
    known: set[str] = set()
    repeats = 0
    for question, answer in pairs:
        if len(known) == count or repeats == MOST_REPEATS:
            return
        repeats = repeats + 1 if question in known else 0
        if not repeats:
            known.add(question)
            yield question, answer


def _conversation(pair: Pair) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, pair)]}


def _write_held_out(
    path: Path,
    target: Path,
    is_open: bool,
) -> None:
    """Write the questions that `credit adapt` holds out of a file, with their answers unless the
    text is open: many answers are as good as the one that was learnt from.
    """
    (source,) = load_sources([str(path)], held_out=10**9)
    questions: list[dict[str, str]] = []
    for example in source.held_out:
        if len(example.messages) == 1:
            question = {"prompt": example.messages[0]["content"]}
            answer = {} if is_open else {"answer": example.answer}
            questions.append(question | answer)
    write(target, _lines(questions))
    report_written(target)


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


if __name__ == "__main__":
    main(command)
