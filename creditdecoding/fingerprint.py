"""Which model and which tokenizer something was made with, as short texts: labels and verifiers are
of one pair alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from creditdecoding.checkpoint import shards
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.text.tokenizer import Tokenizer

SAMPLE = 1024  # values of each weight that are looked at


@dataclass(frozen=True)
class Identity:
    """Digests of a model's weights, of a tokenizer's vocabulary and of how that tokenizer reads a
    text.

    `behaviour` is empty in files of earlier versions, which knew the vocabulary alone: those are
    held to that.
    """

    model: str
    tokenizer: str
    behaviour: str = ""

    def difference(self, other: Identity) -> str | None:
        """What of the two is not the same, "model" or "tokenizer"; None where they agree."""
        both_tell = self.behaviour != "" and other.behaviour != ""
        if self.tokenizer != other.tokenizer or (both_tell and self.behaviour != other.behaviour):
            return "tokenizer"
        return "model" if self.model != other.model else None


def model_identity(lm: LM) -> Identity:
    """What `lm` is: the same on every device and in float32 and bfloat16; of a model without
    weights the name of its type.

    Raises `OptionError` for weights in int8, which are other numbers than the checkpoint's.
    """
    found = hashlib.blake2b(type(lm.model).__name__.encode(), digest_size=8)
    weights = lm.model.named_parameters() if isinstance(lm.model, nn.Module) else ()
    for name, weight in weights:
        if type(weight.data) is not torch.Tensor:
            hint = "Load the checkpoint without --quantize."
            raise OptionError(
                "labels and verifiers are of a model's own weights",
                given=type(weight.data).__name__,
                allowed="floats",
                hint=hint,
            )
        found.update(f"{name.replace('_orig_mod.', '')} {tuple(weight.shape)}".encode())
        values = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLE)]
        found.update(
            values.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
        )
    words: dict[str, Any] = lm.tokenizer.backend.get_vocab()
    vocabulary = hashlib.blake2b(
        repr(sorted(words.items(), key=lambda word: (word[1], word[0]))).encode(), digest_size=8
    )
    return Identity(found.hexdigest(), vocabulary.hexdigest(), tokenizer_digest(lm.tokenizer))


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """A digest of how a tokenizer reads a text: its rules, its chat template, and the ids that
    decoding needs.
    """
    backend = tokenizer.backend
    told = {
        "rules": _rules(backend),
        "template": backend.chat_template,
        "special": backend.special_tokens_map,
        "mask": tokenizer.mask_id,
        "stop": tokenizer.stop_ids,
        "control": tokenizer.control_ids,
    }
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _rules(backend: Any) -> dict[str, Any]:
    """What a tokenizer does to letters: merges, normaliser, pre-tokeniser, added tokens; not how it
    pads or truncates.

    Of one that is written in Python alone: its type and its added tokens, which is all that it
    tells.
    """
    core = getattr(backend, "backend_tokenizer", None)
    if core is None:
        added = getattr(backend, "added_tokens_decoder", {})
        return {
            "type": type(backend).__name__,
            "added": {str(i): repr(token) for i, token in added.items()},
        }
    rules: dict[str, Any] = json.loads(core.to_str())
    return {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}


def check_identity(given: Identity, lm: LM, what: str, model: bool = True) -> None:
    """Refuse `what`, made with `given`, beside another tokenizer or (unless not `model`) another
    model. Raises `OptionError`.
    """
    mine = model_identity(lm)
    part = given.difference(mine)
    if part is None or (part == "model" and not model):
        return
    same_words = part == "tokenizer" and given.tokenizer == mine.tokenizer
    name = "behaviour" if same_words else part
    ours = (
        "another tokenizer: same vocabulary, other rules, chat template or mask"
        if same_words
        else f"another {part}"
    )
    hint = "Name with --model the checkpoint it was made with, or make it anew."
    raise OptionError(
        f"{what} was made with {ours}",
        given=getattr(given, name),
        allowed=getattr(mine, name),
        hint=hint,
    )


def checkpoint_digest(folder: Path) -> str:
    """A digest of a checkpoint: its small files whole, of weight files the name, the size and both
    ends.
    """
    digest, edge = hashlib.blake2b(digest_size=8), 1 << 20
    for path in sorted({*folder.glob("*.json"), *shards(folder)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(edge))
            file.seek(max(0, size - edge))
            digest.update(file.read(edge))
    return digest.hexdigest()


def weights_digest(lm: LM) -> str:
    """A digest of a model in memory: of each tensor of its module the name, the shape, the sum and
    both ends; "" without a module.
    """
    module = getattr(lm.model, "model", lm.model)
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in module.state_dict().items() if isinstance(module, torch.nn.Module) else ():
        flat = tensor.detach().flatten().double()
        digest.update(
            f"{name} {tuple(tensor.shape)} {flat.sum().item()} {flat[:8].tolist()} {flat[-8:].tolist()}\n".encode()
        )
    return digest.hexdigest() if isinstance(module, torch.nn.Module) else ""
