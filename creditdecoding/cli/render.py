"""What commands print: tables, intervals, JSON, and the files they wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from creditdecoding.cli.streams import encodes_all_text
from creditdecoding.errors import os_errors

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Row = Sequence["str | Text"]


def table(
    columns: Sequence[str],
    rows: Iterable[Row | None],
    title: str = "",
    text_columns: Collection[str] = (),
) -> Table:
    """A table in the style of all commands, as wide as the terminal at most.

    The first column and `text_columns` are aligned left, all others right. A row of None starts a
    new section. Text is printed as it is: square brackets are not markup.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(
        title=title or None,
        box=SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        is_text = number == 0 or column in text_columns
        grid.add_column(_plain(column), justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        if row is None:
            grid.add_section()
        else:
            grid.add_row(*map(_plain, row))
    return grid


def show(*parts: Table | Text | str) -> None:
    """Print tables and lines of text on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(_plain(part))


def _plain(part: Any) -> Any:
    """Text that Rich prints as it is."""
    from rich.text import Text

    return Text(part) if isinstance(part, str) else part


def number(value: float | None, form: str = ".2f") -> str:
    """A number in a cell, `-` for none."""
    return "-" if value is None else format(value, form)


def interval(estimate: Mapping[str, float | None], form: str = ".1f") -> str:
    """An estimate with the ends of its interval: `-0.4 [-1.2, 0.3]` for the form `+.1f`.

    Only the estimate itself is printed with a plus sign for differences.
    """
    low, high = (number(estimate[end], form.lstrip("+")) for end in ("low", "high"))
    return f"{number(estimate['value'], form)} [{low}, {high}]"


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=not encodes_all_text(sys.stdout)) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file completely or not at all. Links, pipes and devices are written to directly.

    Raises `OptionError` if the system refuses.
    """
    from creditdecoding.run_dir import write_atomically

    with os_errors("cannot write", path, "Check the folder."):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path, text)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented for reading."""
    write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def report_written(*paths: Path | None) -> None:
    """Say on standard error which files were written; None is skipped."""
    for path in paths:
        if path is not None:
            typer.echo(f"wrote {path}", err=True)
