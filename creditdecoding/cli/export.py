"""The command export: a decoder as a file that this project and SGLang read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from creditdecoding.cli.app import app, write


@app.command()
def export(
    decoder: Annotated[str, typer.Option("--decoder", "-d", help="The decoder, as NAME, NAME:knob=value,... or a file.")] = "credit",
    format: Annotated[str, typer.Option(help="sglang (YAML), json or text (NAME:knob=value,...).")] = "sglang",
    block_size: Annotated[int | None, typer.Option(help="Also set the block length; by default the checkpoint's.", min=1, show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.", show_default=False)] = None,
) -> None:
    """Write a decoder with all its knobs to a file; `--decoder FILE` reads it, and so does SGLang (docs/sglang.md)."""
    from creditdecoding.decoders import exported, load, settings
    from creditdecoding.errors import OptionError
    from creditdecoding.integrations.dense import usable
    from creditdecoding.integrations.sglang_plugin import algorithm_of

    chosen, size = load(decoder)
    name = settings(chosen)["name"]
    heading = ""
    if format == "sglang":
        usable(chosen, name)
        heading = f"credit ... --decoder FILE\nsglang serve ... --dllm-algorithm {algorithm_of(name)} --dllm-algorithm-config FILE"
    if format == "text" and (block_size or size) is not None:
        raise OptionError("the format text has no place for a block length", given=block_size or size, allowed="sglang, json", hint="Choose another.")
    text = exported(chosen, format, block_size or size, heading)
    if out is None:
        sys.stdout.write(text)
    else:
        write(out, text)
        typer.echo(f"wrote {out}", err=True)
