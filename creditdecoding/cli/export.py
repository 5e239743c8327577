"""The command export: a decoder as a file that this project and SGLang read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.render import write
from creditdecoding.cli.validate import check_writable

if TYPE_CHECKING:
    from creditdecoding.decoders.base import Decoder


@app.command()
def export(
    decoder: Annotated[
        str,
        typer.Option(
            "--decoder", "-d", help="The decoder, as NAME, NAME:knob=value,... or a file."
        ),
    ] = "credit",
    format: Annotated[
        str, typer.Option(help="sglang (YAML), json or text (NAME:knob=value,...).")
    ] = "sglang",
    block_size: Annotated[
        int | None,
        typer.Option(
            help="Also set the block length; by default the checkpoint's.",
            min=1,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write to this file instead of printing.", show_default=False),
    ] = None,
) -> None:
    """Write a decoder with all its knobs to a file; `--decoder FILE` reads it, and so does SGLang
    (docs/sglang.md).
    """
    from creditdecoding.decoders import export_text, load, settings
    from creditdecoding.errors import OptionError
    from creditdecoding.integrations.blocks import check_decoder

    check_writable(out)
    chosen, size = load(decoder)
    if format == "sglang":
        check_decoder(chosen, settings(chosen)["name"])
    if format == "text" and (block_size or size) is not None:
        raise OptionError(
            "the format text has no place for a block length",
            given=block_size or size,
            allowed="sglang, json",
            hint="Choose another.",
        )
    text = export_text(chosen, format, block_size or size, usage_comment(chosen))
    if out is None:
        sys.stdout.write(text)
    else:
        write(out, text)
        typer.echo(f"wrote {out}", err=True)


def usage_comment(decoder: Decoder) -> str:
    """How a decoder's file is used, for its head; without SGLang where that cannot run the decoder."""
    from creditdecoding.decoders import settings
    from creditdecoding.errors import OptionError
    from creditdecoding.integrations.blocks import check_decoder
    from creditdecoding.integrations.sglang.plugin import algorithm_name

    name, here = settings(decoder)["name"], "credit ... --decoder FILE"
    try:
        check_decoder(decoder, name)
    except OptionError:
        return here
    return f"{here}\nsglang serve ... --dllm-algorithm {algorithm_name(name)} --dllm-algorithm-config FILE"
