"""The command `python -m experiments.mean_weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from creditdecoding.cli.app import main
from creditdecoding.cli.help import CreditTyper
from creditdecoding.cli.validate import make_folder
from creditdecoding.errors import OptionError
from creditdecoding.models import read_config
from creditdecoding.models.transformer import Transformer
from creditdecoding.run_dir import ResumableRun
from creditdecoding.text.tokenizer import read_tokenizer
from creditdecoding.train.adapt_data import name_and_weight
from creditdecoding.train.checkpoint import copy_tokenizer, export_checkpoint
from experiments.mean_weights import mean_weights

command = CreditTyper(add_completion=False)


@command.command()
def mean(
    folder: Annotated[Path, typer.Argument(metavar="TO", help="Folder of the mean.")],
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Folders of `credit train`; RUN@2 counts twice."),
    ],
) -> None:
    """Write the mean of the weights of training runs, in float32 before it is rounded."""
    parts = [name_and_weight(run) for run in runs]
    states = [_trained(Path(name)) for name, _ in parts]
    first = Path(parts[0][0])
    config, _ = read_config(first)
    model = Transformer(config, "math")
    model.load_state_dict(mean_weights(states, [weight for _, weight in parts]))
    make_folder(folder)
    copy_tokenizer(first, folder)
    export_checkpoint(model, read_tokenizer(first), folder)


def _trained(folder: Path) -> dict[str, torch.Tensor]:
    """The float32 weights of a training run. Raises `OptionError`."""
    state = ResumableRun(folder, None).load()
    if state is None or "model" not in state:
        raise OptionError(
            "no training run",
            given=str(folder),
            allowed="a folder that credit train wrote, with its state.pt",
            hint="Checkpoints without that file hold rounded weights only.",
        )
    return {name: weight.float() for name, weight in state["model"].items()}


if __name__ == "__main__":
    main(command)
