"""The command chat."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import typer

from creditdecoding.cli.app import Model, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.config import EngineConfig, GenerationConfig


@app.command()
@with_options(generation=GenerationConfig, engine=EngineConfig)
def chat(model: Model = "pocket", *, generation: GenerationConfig, engine: EngineConfig) -> None:
    """Talk to a model.

    /new forgets the conversation; /exit, or the end of input, leaves.

    Examples:
        credit chat
        credit chat --model DIR --decoder credit:threshold=0.99 --gen-length 256
    """
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
            history = [*lm.recent_turns(history), {"role": "user", "content": line}]
            answer = ""
            for piece in lm.stream(history, generation):
                answer += piece
                typer.echo(piece, nl=False)
            typer.echo("")
            history.append({"role": "assistant", "content": answer})
