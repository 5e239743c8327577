"""What a checkpoint is, from its names and shapes: `credit info`."""

from __future__ import annotations

from typing import Any

import torch

from creditdecoding import decoders
from creditdecoding.checkpoint import read_optional, shards
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.cache_policy import supported_policies
from creditdecoding.decoding.defaults import checkpoint_defaults
from creditdecoding.lm import open_checkpoint, option_values
from creditdecoding.models import build_parts, memory, merge_of, resolve_device, resolve_dtype
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import DTYPES, check_weights, read_headers
from creditdecoding.options import StrPath
from creditdecoding.text.tokenizer import Tokenizer


def describe(name: StrPath, engine: EngineConfig | None = None) -> dict[str, Any]:
    """What `credit info` shows, from names and shapes alone. Raises `CheckpointError`."""
    engine = engine if engine is not None else EngineConfig()
    parts, _, tokenizer = open_checkpoint(name, engine)
    model, family = build_parts(parts, engine)
    files = shards(parts.weights)
    headers = read_headers(files)
    check_weights(model, headers, family.RENAME)
    merge_of(parts, model, family)
    generation = read_optional(parts.folder_of("config.json") / "generation_config.json")
    own = checkpoint_defaults(generation)
    own |= {"decoder": decoders.settings(own["decoder"])} if "decoder" in own else {}
    file_dtypes = {DTYPES[header.dtype] for header in headers.values()}
    return {
        "checkpoint": str(parts.folder),
        **({"base": str(parts.weights)} if parts.is_adapter else {}),
        "parameters": model.config.num_parameters(),
        "weight files": [
            f"{path.name} ({memory.format_bytes(path.stat().st_size)})" for path in files
        ],
        "dtype of the files": sorted(map(_dtype_name, file_dtypes)),
        **_describe_memory(model, engine),
        **_describe_architecture(model),
        **_describe_tokenizer(tokenizer),
        "defaults": {**option_values(GenerationConfig()), **own},
    }


def _describe_memory(model: Transformer, engine: EngineConfig) -> dict[str, Any]:
    device = resolve_device(engine)
    dtype = resolve_dtype(engine, device, model)
    free = memory.free_bytes(device)
    int8 = "int8 and " if engine.quantize == "int8" else ""

    def weights(dtype: torch.dtype, quantize: str = "none") -> str:
        return memory.format_bytes(memory.weight_bytes(model, dtype, quantize))

    return {
        "memory in float32": weights(torch.float32),
        "memory in bfloat16": weights(torch.bfloat16),
        "memory in int8 and bfloat16": weights(torch.bfloat16, "int8"),
        f"available on {device}": "unknown" if free is None else memory.format_bytes(free),
        "loads in": int8 + _dtype_name(dtype),
    }


def _describe_architecture(model: Transformer) -> dict[str, Any]:
    """The fields of config.json, some of them explained."""
    config = model.config
    block, moe = config.causal_block, config.moe
    scaling = config.rope_scaling
    explained = (
        "mask_token_id",
        "stop_token_ids",
        "causal_block",
        "logit_shift",
        "moe",
        "rope_scaling",
    )
    attention = "full"
    if block is not None:
        attention = f"two-way inside blocks of {block}, causal between them"
    return {
        **option_values(config, leave_out=explained),
        "experts": None if moe is None else {k: v for k, v in option_values(moe).items() if v != 0},
        "rope scaling": None if scaling is None else option_values(scaling),
        "attention": attention,
        "block length": block or "any",
        "caches": supported_policies(model.geometry),
        "logits of position i": "at row i-1" if config.logit_shift else "at row i",
    }


def _describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    def named(token: int) -> str:
        return f"{tokenizer.token_text(token)} = {token}"

    return {
        "tokenizer ids": tokenizer.size,
        "mask token": named(tokenizer.mask_id),
        "stop tokens": [named(token) for token in tokenizer.stop_ids],
        "chat template": "yes" if tokenizer.backend.chat_template else "no",
    }


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
