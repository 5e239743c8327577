"""The weights that learn beside the model that samples: a float32 copy, how the sampler gets it,
how it becomes a checkpoint.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.models import family_of
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import save_weights

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
)
"""How the files of a checkpoint begin that are no weights."""


def learning_copy(lm: LM, compile: bool = False, learn: str = "all") -> tuple[nn.Module, nn.Module]:
    """A float32 copy of the model that samples, to learn, and one as it is, frozen; of the copy all
    weights `learn`, or the scales of its norms.

    Raises `OptionError` if they cannot.
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
    mine, first = copy.deepcopy(model).float(), copy.deepcopy(model).requires_grad_(False)
    if isinstance(mine, Transformer):
        mine.attention_backend = "math" if lm.device.type == "cpu" else "sdpa"
    if compile:
        torch._dynamo.config.recompile_limit = max(
            64, torch._dynamo.config.recompile_limit
        )  # learner, sampler and verifier share one function
        for each in (mine, first):
            if isinstance(each, Transformer):
                each.compile_layers(dynamic=True)
    for name, weight in mine.named_parameters():
        weight.requires_grad_(learn == "all" or "norm" in name)
    if not any(weight.requires_grad for weight in mine.parameters()):
        raise OptionError(
            "this model has no weights of that kind",
            given=learn,
            allowed="all",
            hint="Leave --learn out.",
        )
    return mine, first


@torch.no_grad()
def sync_sampler(lm: LM, model: nn.Module) -> None:
    """Give the model that samples the weights of `model`."""
    assert isinstance(lm.model, nn.Module)
    for theirs, mine in zip(lm.model.parameters(), model.parameters()):
        theirs.copy_(mine)


def cosine(first: Sequence[Tensor | None], whole: Sequence[Tensor | None]) -> float | None:
    """The cosine of the angle between a part of a gradient and the rest of it; None where one of
    them is nothing.
    """
    along = mine = theirs = 0.0
    for part, every in zip(first, whole):
        if part is not None and every is not None:
            rest = every - part
            along, mine, theirs = (
                x + float(y.sum())
                for x, y in ((along, part * rest), (mine, part * part), (theirs, rest * rest))
            )
    return round(along / math.sqrt(mine * theirs), 5) if mine * theirs > 0 else None


def export(model: Any, source: Path, folder: Path) -> None:
    """Write `model` as a checkpoint like the one in `source`: its configuration and tokenizer,
    these weights.
    """
    rename = family_of(source).RENAME
    for path in source.iterdir():
        if path.is_file() and path.name.startswith(FILES):
            shutil.copy(path, folder / path.name)
    part = folder / "model.part"
    save_weights(model, part, rename, next(model.parameters()).dtype)
    os.replace(part, folder / "model.safetensors")


def refuse_unwritable(lm: LM) -> None:
    """Refuse models whose weights cannot be written as a checkpoint. Raises `OptionError`."""
    if isinstance(lm.model, Transformer) and lm.model.config.moe is not None:
        raise OptionError(
            "a mixture of experts is not written back as a checkpoint yet",
            given=lm.model.config.family,
            hint="Choose a dense --model.",
        )
