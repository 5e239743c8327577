"""Which model and which tokenizer something was made with, as short texts: labels and verifiers are of one pair alone.

Leaves to others: where the texts are kept (store.py, model.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM

SAMPLE = 1024  # values of each weight that are looked at


@dataclass(frozen=True)
class Identity:
    """Digests of a model's weights and of a tokenizer's vocabulary."""

    model: str
    tokenizer: str


def identity(lm: LM) -> Identity:
    """What `lm` is: the same on every device and in float32 and bfloat16; of a model without weights the name of its type.

    Raises `OptionError` for weights in int8, which are other numbers than the checkpoint's.
    """
    found = hashlib.blake2b(type(lm.model).__name__.encode(), digest_size=8)
    weights = lm.model.named_parameters() if isinstance(lm.model, nn.Module) else ()
    for name, weight in weights:
        if type(weight.data) is not torch.Tensor:
            hint = "Load the checkpoint without --quantize."
            raise OptionError("labels and verifiers are of a model's own weights", given=type(weight.data).__name__, allowed="floats", hint=hint)
        found.update(f"{name.replace('_orig_mod.', '')} {tuple(weight.shape)}".encode())
        values = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLE)]
        found.update(values.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    words: dict[str, Any] = lm.tokenizer.backend.get_vocab()
    vocabulary = hashlib.blake2b(repr(sorted(words.items(), key=lambda word: (word[1], word[0]))).encode(), digest_size=8)
    return Identity(found.hexdigest(), vocabulary.hexdigest())


def hold(given: Identity, lm: LM, what: str, model: bool = True) -> None:
    """Refuse `what`, made with `given`, beside another tokenizer or (unless not `model`) another model. Raises `OptionError`."""
    mine = identity(lm)
    for part in ("tokenizer", "model") if model else ("tokenizer",):
        if getattr(given, part) != getattr(mine, part):
            hint = "Name with --model the checkpoint it was made with, or make it anew."
            raise OptionError(f"{what} was made with another {part}", given=getattr(given, part), allowed=getattr(mine, part), hint=hint)
