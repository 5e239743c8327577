"""The command export: a decoder as a file that this project and SGLang read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import app
from creditdecoding.cli.render import report_written, write
from creditdecoding.cli.validate import check_writable
from creditdecoding.errors import OptionError

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
    """Write a decoder with all its knobs to a file.

    --decoder FILE reads it again, and so does SGLang (docs/guide/sglang.md).

    Examples:
        credit export --decoder credit:threshold=0.95 --out credit.yaml
        credit export --decoder thrift --format text
    """
    from creditdecoding.decoders import export_text, load, settings
    from creditdecoding.integrations.blocks import check_decoder

    check_writable(out)
    rule, file_block_size = load(decoder)
    block_size = block_size or file_block_size
    if format == "sglang":
        check_decoder(rule, settings(rule)["name"])
    if format == "text" and block_size is not None:
        raise OptionError(
            "the format text has no block length",
            given=block_size,
            allowed="sglang, json",
            hint="Choose another format.",
        )
    text = export_text(rule, format, block_size, usage_comment(rule))
    if out is None:
        sys.stdout.write(text)
    else:
        write(out, text)
        report_written(out)


def usage_comment(decoder: Decoder) -> str:
    """The commands that read a decoder's file; SGLang's only if it can run the decoder."""
    from creditdecoding.decoders import names, settings
    from creditdecoding.integrations.blocks import check_decoder
    from creditdecoding.integrations.sglang.plugin import algorithm_name
    from creditdecoding.plugins import is_python_file

    name = settings(decoder)["name"]
    credit_command = "credit ... --decoder FILE"
    if name not in names() and not is_python_file(name):  # a control
        return credit_command
    try:
        check_decoder(decoder, name)
    except OptionError:
        return credit_command
    algorithm = f"--dllm-algorithm {algorithm_name(name)} --dllm-algorithm-config FILE"
    return f"{credit_command}\nsglang serve ... {algorithm}"
