"""Quality without a gold answer, in `credit eval` and `credit compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditdecoding.cli.render import interval, show, table
from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.bases.autoregressive_lm import AutoregressiveLM
    from creditdecoding.config import EngineConfig

Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Autoregressive model under which the likelihood of answers is measured "
        "(docs/guide/adapters.md).",
        show_default="the base of an adapter",
    ),
]

Agreement = Annotated[
    bool,
    typer.Option(
        "--agreement",
        help="Also answer with standard decoding, one token a pass, and say how far the answers "
        "agree.",
    ),
]


def find_base(base: str | None, model: str, engine: EngineConfig) -> str | None:
    """The base that was asked for, else an adapter's; None if there is none. Raises
    `CheckpointError`.
    """
    from creditdecoding.bases.autoregressive_lm import check_base
    from creditdecoding.eval.quality import judge_engine, known_base

    if base is None:
        return known_base(model, engine)
    check_base(base, judge_engine(engine))
    return base


def load_judge(base: str | None, engine: EngineConfig) -> AutoregressiveLM | None:
    """Load the base, showing progress if it takes long."""
    from creditdecoding.bases.autoregressive_lm import load_base
    from creditdecoding.cli.loading import loading_progress
    from creditdecoding.eval.quality import judge_engine

    if base is None:
        return None
    with loading_progress() as on_progress:
        return load_base(base, judge_engine(engine), on_progress)


def show_quality(rows: Mapping[str, Mapping[str, Any]], base: str | None) -> None:
    """A table of the measures, a row for each label."""
    from creditdecoding.viewer.labels import QUALITY_COLUMNS

    keys = [key for key in QUALITY_COLUMNS if any(key in numbers for numbers in rows.values())]
    titles = ("answers by", *(QUALITY_COLUMNS[key][0] for key in keys))
    lines = [
        (label, *(interval(numbers[key], f".{QUALITY_COLUMNS[key][1]}f") for key in keys))
        for label, numbers in rows.items()
    ]
    too_long = sum(numbers.get("too_long", 0) for numbers in rows.values())
    if too_long:
        answers = count(too_long, "answer is", "answers are")
        typer.echo(f"{answers} empty or too long for the base: no likelihood", err=True)
    under = "" if base is None else f"; likelihood under {base}"
    show(table(titles, lines, f"Quality without a gold answer, means [95 %]{under}"))
