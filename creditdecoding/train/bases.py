"""Bases: autoregressive models that `credit adapt` makes a diffusion language model of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken

from creditdecoding.checkpoint import read_json, resolve_checkpoint
from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models import BASES, read_config
from creditdecoding.models.families.causal import RENAME
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import load_weights
from creditdecoding.text.tokenizer import (
    Tokenizer,
    end_of_turn_ids,
    from_backend,
    read_backend,
)

MASK_TOKEN = "<|mask|>"


@dataclass(frozen=True)
class Base:
    """A base as it is trained: its config.json, its architecture with blocks, its tokenizer with a
    mask, and the id that ends an answer. `name` finds it from any folder. `added_mask`: the
    tokenizer had to get a token for it.
    """

    name: str
    folder: Path
    raw: Mapping[str, Any]
    config: ModelConfig
    tokenizer: Tokenizer
    end_of_turn: int
    added_mask: bool


def read_base(name: str, block: int) -> Base:
    """Configuration and tokenizer of the base `name`, a folder or a hub id. Raises
    `CheckpointError`.
    """
    folder = resolve_checkpoint(name)
    causal, _ = read_config(folder, families=BASES)
    raw = read_json(folder / "config.json")
    backend = read_backend(folder)
    before = len(backend)
    mask_id = _free_id(backend, raw, causal)
    tokenizer = from_backend(backend, mask_id, causal.stop_token_ids)
    return Base(
        name=str(folder.resolve()) if Path(name).is_dir() else name,
        folder=folder,
        raw=raw,
        config=replace(causal, causal_block=block, mask_token_id=mask_id),
        tokenizer=tokenizer,
        end_of_turn=_end_of_turn(tokenizer),
        added_mask=len(backend) > before,
    )


def _free_id(
    backend: Any,
    raw: Mapping[str, Any],
    config: ModelConfig,
) -> int:
    """The id for the mask: the tokenizer's own mask, a row of the embedding without a token (the
    token is added), or the last special token that nothing uses. Raises `CheckpointError`.
    """
    if backend.mask_token_id is not None:
        return int(backend.mask_token_id)
    if 1 + max(backend.get_vocab().values()) < config.embedding_rows:
        rules = backend.backend_tokenizer
        rules.add_special_tokens([AddedToken(MASK_TOKEN, special=True, normalized=False)])
        return int(rules.token_to_id(MASK_TOKEN))
    in_use = {raw.get("bos_token_id"), config.pad_token_id, *config.stop_token_ids}
    unused = [i for i in _unnamed_special_ids(backend) if i not in in_use]
    if not unused:
        raise CheckpointError(
            "the tokenizer has no free id for the mask",
            given=f"{config.embedding_rows} ids, all in use",
            allowed="a mask token, an embedding row without a token, or an unused special token",
            hint="Use a base whose tokenizer has reserved tokens.",
        )
    return max(unused)


def _unnamed_special_ids(backend: Any) -> list[int]:
    """Special tokens that have no role and are not in the chat template."""
    template = str(backend.chat_template)
    roles = {*backend.special_tokens_map.values()}
    return [
        token_id
        for token_id, token in backend.added_tokens_decoder.items()
        if token.special and token.content not in template and token.content not in roles
    ]


def _end_of_turn(tokenizer: Tokenizer) -> int:
    """The id that ends an answer. Raises `CheckpointError`."""
    ids = [*end_of_turn_ids(tokenizer.backend), *tokenizer.stop_ids]
    if not ids:
        raise CheckpointError(
            "the tokenizer has no token that ends an answer",
            allowed="an eos_token, or a chat template that ends turns",
            hint="Use a base that was tuned to chat.",
        )
    return ids[0]


def load_network(
    base: Base,
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
) -> Transformer:
    """The base's network with its weights. Raises `CheckpointError`."""
    with torch.device("meta"):
        model = Transformer(base.config, backend)
    load_weights(model, base.folder, RENAME, device, dtype)
    return model
