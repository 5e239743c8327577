"""Commands that answer a prompt: generate, chat, trace."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import (
    Json,
    Model,
    Prompt,
    PromptFile,
    Raw,
    app,
    complete,
    load_lm,
    read_prompt,
    summary,
)
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.render import print_json, write
from creditdecoding.cli.validate import check_can_plot, check_writable
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.errors import OptionError

if TYPE_CHECKING:
    from creditdecoding.trace import Trace


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def generate(
    prompt: Prompt = None,
    model: Model = "pocket",
    file: PromptFile = None,
    raw: Raw = False,
    infill: Annotated[
        bool,
        typer.Option("--infill", help="Fill each [MASK] of the text instead of continuing it."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Animate the denoising in the terminal.")
    ] = False,
    as_json: Json = False,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Answer one prompt."""
    if watch and as_json:
        raise OptionError("--watch and --json exclude each other", hint="Leave one out.")
    text = read_prompt(prompt, file)
    done = complete(load_lm(model, engine), text, generation, raw, infill, watch)
    if as_json:
        print_json(done.to_json())
    else:
        if not watch:
            typer.echo(done.text)
        typer.echo(summary(done), err=True)


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def chat(model: Model = "pocket", *, generation: GenerationConfig, engine: EngineConfig) -> None:
    """Talk to a model; `/new` forgets the conversation, `/exit` or end of input leaves."""
    lm = load_lm(model, engine)
    history: list[Mapping[str, str]] = []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line in ("/exit", "/quit"):
            return
        if line == "/new":
            history = []
        elif line:
            history = [*lm.recent(history), {"role": "user", "content": line}]
            pieces = []
            for piece in lm.stream(history, generation):
                pieces.append(piece)
                typer.echo(piece, nl=False)
            typer.echo("")
            history.append({"role": "assistant", "content": "".join(pieces)})


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def trace(
    prompt: Prompt = None,
    model: Model = "pocket",
    file: PromptFile = None,
    raw: Raw = False,
    load: Annotated[
        Path | None,
        typer.Option(help="Read a saved trace instead of decoding.", show_default=False),
    ] = None,
    against: Annotated[
        list[str], typer.Option(help="Another decoder to set beside --decoder; may be repeated.")
    ] = [],  # noqa: B006
    save: Annotated[
        Path | None, typer.Option(help="Save the trace of --decoder as JSONL.", show_default=False)
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw step x position as PNG.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a stand-alone HTML page.", show_default=False)
    ] = None,
    *,
    generation: GenerationConfig,
    engine: EngineConfig,
) -> None:
    """Decode one prompt and show what was committed when; save or draw it."""
    from creditdecoding.lm import load_words
    from creditdecoding.trace import Trace

    check_can_plot(png)
    check_writable(save, png, html)
    if load is not None:
        if (
            prompt is not None
            or file is not None
            or against
            or raw
            or generation != GenerationConfig()
            or engine != EngineConfig()
        ):
            raise OptionError(
                "--load takes no prompt and no decoding options: it decodes nothing",
                hint="Leave one out.",
            )
        named = [("trace", Trace.load(load))]
        piece = load_words(model).piece
    else:
        text, lm = read_prompt(prompt, file), load_lm(model, engine)
        piece = lm.tokenizer.piece
        named = []
        for spec in [generation.decoder, *against]:
            done = complete(lm, text, dataclasses.replace(generation, decoder=spec), raw)
            named.append((spec, done.trace))
    _show_traces(named, piece, save, png, html)


def _show_traces(
    named: list[tuple[str, Trace]],
    piece: Callable[[int], str],
    save: Path | None,
    png: Path | None,
    html: Path | None,
) -> None:
    """Print the traces, or write the files asked for; JSONL holds the first alone."""
    from creditdecoding.plots.trace import traces_png
    from creditdecoding.viewer import html as page
    from creditdecoding.viewer import terminal

    if save is not None:
        write(save, named[0][1].dumps())
    if png is not None:
        traces_png(named, piece, png)
    if html is not None:
        write(html, page.trace_html(named, piece, "Denoising trace"))
    if save is None and png is None and html is None:
        for _, each in named:
            terminal.print_trace(each, piece)
    for path in (save, png, html):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)
