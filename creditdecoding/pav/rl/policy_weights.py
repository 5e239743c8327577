"""The weights that learn: a float32 copy of the model that samples, copied back after each step."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from creditdecoding.checkpoint import find_parts
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.models import family_of
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import save_weights

COPIED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
)
"""How the files of a checkpoint begin that are not weights."""


def learning_copy(lm: LM, compile: bool = False) -> tuple[nn.Module, nn.Module]:
    """A float32 copy of the model that samples, to learn, and a frozen copy in its own type.

    Raises `OptionError` for external and quantised models.
    """
    model = lm.model
    if not isinstance(model, nn.Module) or any(
        type(weight.data) is not torch.Tensor for weight in model.parameters()
    ):
        raise OptionError(
            "this model's weights cannot learn",
            given=type(model).__name__,
            hint="Load a released checkpoint, without --quantize.",
        )
    learner = copy.deepcopy(model).float().requires_grad_(True)
    first = copy.deepcopy(model).requires_grad_(False)
    if isinstance(learner, Transformer):
        learner.attention_backend = "math" if lm.device.type == "cpu" else "sdpa"
    if compile:
        for module in (learner, first):
            if isinstance(module, Transformer):
                module.compile_layers(dynamic=True)
    return learner, first


@torch.no_grad()
def sync_sampler(lm: LM, model: nn.Module) -> None:
    """Copy the weights of `model` to the model that samples."""
    assert isinstance(lm.model, nn.Module)
    for target, source in zip(lm.model.parameters(), model.parameters()):
        target.copy_(source)


def cosine(part: Sequence[Tensor | None], whole: Sequence[Tensor | None]) -> float | None:
    """The cosine between a part of a gradient and the rest of it; None if one of them is zero."""
    product = part_norm = rest_norm = 0.0
    for weight_part, weight_whole in zip(part, whole):
        if weight_part is not None and weight_whole is not None:
            rest = weight_whole - weight_part
            product += float((weight_part * rest).sum())
            part_norm += float(weight_part.square().sum())
            rest_norm += float(rest.square().sum())
    if part_norm * rest_norm == 0:
        return None
    return round(product / math.sqrt(part_norm * rest_norm), 5)


def export(model: Any, source: Path, folder: Path) -> None:
    """Write `model` as a checkpoint with the configuration and tokenizer of the one in `source`.

    Where that is an adapter, the files that it lacks are those of its base.
    """
    parts = find_parts(source)
    rename = family_of(parts.folder_of("config.json")).RENAME
    for path in (*parts.weights.iterdir(), *source.iterdir()):
        if path.is_file() and path.name.startswith(COPIED_FILES):
            shutil.copy(path, folder / path.name)
    part = folder / "model.part"
    save_weights(model, part, rename, next(model.parameters()).dtype)
    part.replace(folder / "model.safetensors")


def refuse_unwritable(lm: LM) -> None:
    """Refuse models that cannot be written as a checkpoint. Raises `OptionError`."""
    if isinstance(lm.model, Transformer) and lm.model.config.moe is not None:
        raise OptionError(
            "a mixture of experts is not written back as a checkpoint yet",
            given=lm.model.config.family,
            hint="Choose a dense --model.",
        )
