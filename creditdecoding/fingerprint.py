"""Digests of checkpoints, weights and tokenizers, to match saved data to the model it is of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from creditdecoding.checkpoint import find_parts, resolve_checkpoint, shards
from creditdecoding.config import EngineConfig
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.text.tokenizer import Tokenizer

SAMPLED_VALUES = 1024
"""Values of each weight that `model_identity` looks at."""

EDGE_BYTES = 2**20
"""Bytes at both ends of a weight file that `checkpoint_digest` looks at."""

DIGEST_SIZE = 8

_READ_FILES = ("*.json", "*.jinja", "merges.txt")


@dataclass(frozen=True)
class Identity:
    """Digests of a model's weights, its tokenizer's vocabulary and its tokenizer's rules.

    `behaviour`, the digest of the rules, is empty in files of earlier versions.
    """

    model: str
    tokenizer: str
    behaviour: str = ""

    def difference(self, other: Identity) -> str | None:
        """What differs, "model" or "tokenizer"; None if nothing does."""
        comparable = self.behaviour != "" and other.behaviour != ""
        if self.tokenizer != other.tokenizer or (comparable and self.behaviour != other.behaviour):
            return "tokenizer"
        return "model" if self.model != other.model else None


def model_identity(lm: LM) -> Identity:
    """The identity of `lm`, equal on every device and in float32 and bfloat16.

    A model without weights is identified by the name of its type. Raises `OptionError` for int8
    weights, which are not the checkpoint's.
    """
    vocabulary: dict[str, int] = lm.tokenizer.backend.get_vocab()
    by_id = sorted(vocabulary.items(), key=lambda entry: (entry[1], entry[0]))
    return Identity(
        model=_sampled_weights_digest(lm.model),
        tokenizer=_text_digest(repr(by_id)),
        behaviour=tokenizer_digest(lm.tokenizer),
    )


def _sampled_weights_digest(model: object) -> str:
    digest = hashlib.blake2b(type(model).__name__.encode(), digest_size=DIGEST_SIZE)
    parameters = model.named_parameters() if isinstance(model, nn.Module) else ()
    for name, weight in parameters:
        if type(weight.data) is not torch.Tensor:
            raise OptionError(
                "labels and verifiers need the checkpoint's own weights",
                given=type(weight.data).__name__,
                allowed="floats",
                hint="Load the checkpoint without --quantize.",
            )
        digest.update(f"{name.replace('_orig_mod.', '')} {tuple(weight.shape)}".encode())
        sample = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED_VALUES)]
        sample = sample.to("cpu", torch.bfloat16).contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """A digest of how a tokenizer reads a text: rules, chat template and special ids."""
    backend = tokenizer.backend
    behaviour = {
        "rules": _rules(backend),
        "template": backend.chat_template,
        "special": backend.special_tokens_map,
        "mask": tokenizer.mask_id,
        "stop": tokenizer.stop_ids,
        "control": tokenizer.control_ids,
    }
    return _text_digest(json.dumps(behaviour, sort_keys=True, default=str))


def _text_digest(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).hexdigest()


def _rules(backend: Any) -> dict[str, Any]:
    """Merges, normaliser, pre-tokeniser and added tokens; not padding, truncation and what is put
    around a text, which decoding does not use.

    A tokenizer written in Python tells only its type and its added tokens.
    """
    core = getattr(backend, "backend_tokenizer", None)
    if core is None:
        added = getattr(backend, "added_tokens_decoder", {})
        added_tokens = {str(token_id): repr(token) for token_id, token in added.items()}
        return {"type": type(backend).__name__, "added": added_tokens}
    rules: dict[str, Any] = json.loads(core.to_str())
    unused = ("padding", "truncation", "post_processor")
    return {name: rule for name, rule in rules.items() if name not in unused}


def check_identity(saved: Identity, lm: LM, what: str, model: bool = True) -> None:
    """Refuse to use `what` with another tokenizer or, if `model`, another model than its own.

    Raises `OptionError`.
    """
    current = model_identity(lm)
    part = saved.difference(current)
    if part is None or (part == "model" and not model):
        return
    other, name = f"another {part}", part
    if part == "tokenizer" and saved.tokenizer == current.tokenizer:
        other = "another tokenizer: same vocabulary, other rules, chat template or mask"
        name = "behaviour"
    raise OptionError(
        f"{what} was made with {other}",
        given=getattr(saved, name),
        allowed=getattr(current, name),
        hint="Give the checkpoint it was made with as --model, or make it again.",
    )


def checkpoint_digest(folder: Path) -> str:
    """A digest of a checkpoint: name, size and both ends of its weights and of all other files that
    are read.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    others = (path for pattern in _READ_FILES for path in folder.glob(pattern))
    for path in sorted({*others, *shards(folder)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def model_digest(model: str, engine: EngineConfig) -> str:
    """`checkpoint_digest` of the checkpoint called `model`; for an adapter also of its base."""
    folder = resolve_checkpoint(model, engine.revision, engine.offline, engine.cache_dir)
    parts = find_parts(folder, engine.offline, engine.cache_dir)
    return "+".join(checkpoint_digest(part) for part in dict.fromkeys((folder, parts.weights)))


def weights_digest(lm: LM) -> str:
    """A digest of a module in memory: name, shape, sum and both ends of each tensor.

    Empty for a model that is not a module.
    """
    module = getattr(lm.model, "model", lm.model)  # an external model wraps its network
    if not isinstance(module, nn.Module):
        return ""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().flatten().double()
        ends = f"{flat[:8].tolist()} {flat[-8:].tolist()}"
        digest.update(f"{name} {tuple(tensor.shape)} {flat.sum().item()} {ends}\n".encode())
    return digest.hexdigest()
