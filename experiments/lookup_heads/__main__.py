"""The command `python -m experiments.lookup_heads`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.cli.app import main
from creditdecoding.cli.help import CreditTyper
from creditdecoding.cli.validate import make_folder
from creditdecoding.models import read_config
from creditdecoding.models.families import llada
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import load_weights
from creditdecoding.text.tokenizer import read_tokenizer
from creditdecoding.train.checkpoint import copy_tokenizer, export_checkpoint
from experiments.lookup_heads import with_lookup_heads

command = CreditTyper(add_completion=False)


@command.command()
def lookup_heads(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A checkpoint of `credit train`.")],
    folder: Annotated[Path, typer.Argument(metavar="TO", help="Folder of the larger model.")],
) -> None:
    """Write a copy of a small network with two more layers, which look words up."""
    checkpoint = resolve_checkpoint(source)
    config, _ = read_config(checkpoint)
    model = Transformer(config, "math")
    load_weights(model, checkpoint, llada.RENAME, torch.device("cpu"), torch.float32)
    tokenizer = read_tokenizer(checkpoint)
    make_folder(folder)
    copy_tokenizer(checkpoint, folder)
    export_checkpoint(with_lookup_heads(model, tokenizer), tokenizer, folder)


if __name__ == "__main__":
    main(command)
