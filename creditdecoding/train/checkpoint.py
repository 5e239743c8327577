"""Checkpoints of a training run: the one it starts from, and the one it writes."""

from __future__ import annotations

import copy
import dataclasses
import filecmp
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.errors import OptionError
from creditdecoding.models import read_config
from creditdecoding.models.families import llada
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import load_weights, save_weights
from creditdecoding.run_dir import write_json
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.wording import count

START = "start"  # subfolder of a run with the checkpoint that it starts from


def start_from_checkpoint(name: str, folder: Path) -> None:
    """Copy the checkpoint `name` into a run's folder; a run that already started from it stays.

    Raises `OptionError` if the run has started from something else.
    """
    source = resolve_checkpoint(name)
    if (folder / "state.pt").exists():
        if not _same_files(source, folder / START):
            raise OptionError(
                "this run has begun already",
                given=str(folder),
                hint="Leave --start-from out to go on, or use another --out.",
            )
        return
    shutil.copytree(source, folder / START, dirs_exist_ok=True)
    copy_tokenizer(source, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files from the checkpoint of a training run."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)


def _same_files(source: Path, copy: Path) -> bool:
    """Whether the weights, the configuration and the tokenizer in two folders are equal."""
    names = [path.name for path in source.iterdir() if path.suffix in (".json", ".safetensors")]
    return copy.is_dir() and not any(filecmp.cmpfiles(source, copy, names, shallow=False)[1:])


def load_start(model: Transformer, folder: Path) -> None:
    """Load the weights that `start_from_checkpoint` copied, if any. Raises `OptionError`.

    A model with more layers than the checkpoint computes the same at first: `_with_more_layers`.
    """
    start = folder / START
    if not start.exists():
        return
    config, _ = read_config(start)
    ours = model.config
    has_shape = dataclasses.replace(config, num_layers=ours.num_layers) == ours
    if not has_shape or ours.num_layers < config.num_layers:
        raise OptionError(
            "the checkpoint to start from has another shape",
            given=f"{count(config.num_layers, 'layer')} of {config.hidden_size}",
            allowed=f"{count(ours.num_layers, 'layer')} of {ours.hidden_size} or fewer layers, "
            "the same heads, feed-forward and vocabulary",
            hint="Ask for the checkpoint's shape, or for more layers.",
        )
    device = next(model.parameters()).device
    loaded = Transformer(config)
    load_weights(loaded, start, llada.RENAME, device, torch.float32)
    _with_more_layers(loaded, ours.num_layers)
    model.load_state_dict(loaded.state_dict())


def _with_more_layers(model: Transformer, num_layers: int) -> None:
    """Add layers, spread evenly, that leave the output as it is: each is a copy of the layer before
    it whose two output projections are zero (block expansion, arXiv 2401.02415, section 3.2).
    """
    layers: list[Any] = list(model.layers)
    added = num_layers - len(layers)
    ends = [(number + 1) * len(layers) // added for number in range(added)]
    for end in reversed(ends):
        layer = copy.deepcopy(layers[end - 1])
        for weight in (layer.o.weight, layer.mlp.down.weight):
            nn.init.zeros_(weight)
        layers.insert(end, layer)
    model.layers = nn.ModuleList(layers)


def export_checkpoint(model: Transformer, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors in LLaDA's released format.

    A kill leaves whole files.
    """
    end = tokenizer.backend.eos_token_id
    generation = {
        "bos_token_id": tokenizer.backend.bos_token_id,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_turns": 1,
    }
    write_json(folder / "config.json", llada.to_hf(model.config, "bfloat16"))
    write_json(folder / "generation_config.json", generation)
    part = folder / "model.part"
    save_weights(model, part, llada.RENAME, torch.bfloat16)
    part.replace(folder / "model.safetensors")
