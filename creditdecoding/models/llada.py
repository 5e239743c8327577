"""Family LLaDA dense (GSAI-ML/LLaDA-8B-Base, -Instruct, LLaDA-1.5): config reader, config writer, rename table.

Leaves to others: the network (transformer.py) and reading tensors (weights.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError

ARCHITECTURES = ("LLaDAModelLM",)

RENAME = {
    "embed.weight": "model.transformer.wte.weight",
    "layers.{n}.attn_norm.weight": "model.transformer.blocks.{n}.attn_norm.weight",
    "layers.{n}.q.weight": "model.transformer.blocks.{n}.q_proj.weight",
    "layers.{n}.k.weight": "model.transformer.blocks.{n}.k_proj.weight",
    "layers.{n}.v.weight": "model.transformer.blocks.{n}.v_proj.weight",
    "layers.{n}.o.weight": "model.transformer.blocks.{n}.attn_out.weight",
    "layers.{n}.ff_norm.weight": "model.transformer.blocks.{n}.ff_norm.weight",
    "layers.{n}.gate.weight": "model.transformer.blocks.{n}.ff_proj.weight",
    "layers.{n}.up.weight": "model.transformer.blocks.{n}.up_proj.weight",
    "layers.{n}.down.weight": "model.transformer.blocks.{n}.ff_out.weight",
    "norm.weight": "model.transformer.ln_f.weight",
    "head.weight": "model.transformer.ff_out.weight",
}

# Fields that change the forward pass, with the only value implemented here; an absent field means that value.
_FIXED: dict[str, Any] = {
    "rope": True,
    "alibi": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_layer_norm": False,
    "clip_qkv": None,
    "rope_scaling": None,
}


_COUNTS = ("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "embedding_size", "vocab_size", "max_sequence_length")
_IDS = ("eos_token_id", "pad_token_id", "mask_token_id")


def _check_numbers(raw: Mapping[str, Any]) -> None:
    """Hold sizes, factors and ids to what a network can have; absent ones pass. Raises `CheckpointError`."""
    rules: list[tuple[tuple[str, ...], str, Callable[[Any], bool]]] = [
        (_COUNTS, "a whole number above 0", lambda x: type(x) is int and x > 0),
        (("rope_theta", "rms_norm_eps"), "a number above 0", lambda x: type(x) in (int, float) and 0 < x < math.inf),
        (_IDS, "whole numbers", lambda x: all(type(i) is int for i in (x if isinstance(x, list) else [x]))),
    ]
    for names, allowed, fits in rules:
        for name in names:
            if raw.get(name) is not None and not fits(raw[name]):
                raise CheckpointError(
                    f"config.json: {name} makes no sense", given=raw[name], allowed=allowed, hint="Take config.json from the released checkpoint."
                )


def from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError` for a missing field or one whose value is not implemented."""
    for name, value in _FIXED.items():
        if raw.get(name, value) != value:
            raise CheckpointError(
                f"config.json: {name} is not implemented", given=raw[name], allowed=repr(value), hint="Use a LLaDA dense checkpoint."
            )
    needed = ("d_model", "n_layers", "n_heads", "vocab_size", "max_sequence_length", "rope_theta", "rms_norm_eps", "eos_token_id")
    for name in needed:
        if raw.get(name) is None:
            raise CheckpointError(f"config.json lacks {name}", allowed=", ".join(needed), hint="Take config.json from the released checkpoint.")
    _check_numbers(raw)
    heads = int(raw["n_heads"])
    kv_heads = 1 if raw.get("multi_query_attention") else int(raw.get("n_kv_heads") or heads)
    eos = raw["eos_token_id"]
    stops = tuple(int(i) for i in (eos if isinstance(eos, list) else [eos]))
    if int(raw["d_model"]) % heads or heads % kv_heads:
        raise CheckpointError(
            "config.json: heads do not divide", given=(raw["d_model"], heads, kv_heads), hint="n_heads must divide d_model, n_kv_heads n_heads."
        )
    pad = raw.get("pad_token_id")
    return ModelConfig(
        family="llada",
        hidden_size=int(raw["d_model"]),
        num_layers=int(raw["n_layers"]),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=int(raw["d_model"]) // heads,
        intermediate_size=int(raw.get("mlp_hidden_size") or raw.get("mlp_ratio", 4) * raw["d_model"]),
        embedding_rows=int(raw.get("embedding_size") or raw["vocab_size"]),
        max_length=int(raw["max_sequence_length"]),
        rope_theta=float(raw["rope_theta"]),
        rms_norm_eps=float(raw["rms_norm_eps"]),
        tie_embeddings=bool(raw.get("weight_tying", False)),
        rope_full_precision=bool(raw.get("rope_full_precision", True)),
        mask_token_id=raw.get("mask_token_id"),
        stop_token_ids=stops,
        pad_token_id=int(stops[0] if pad is None else pad),
    )


def to_hf(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The config.json with which other LLaDA code loads our weights; `from_hf` of it gives `config` back."""
    return {
        "architectures": [ARCHITECTURES[0]],
        "model_type": "llada",
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        **{name: value for name, value in _FIXED.items() if name not in ("clip_qkv", "rope_scaling")},
        "d_model": config.hidden_size,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "mlp_ratio": 4,
        "mlp_hidden_size": config.intermediate_size,
        "embedding_size": config.embedding_rows,
        "vocab_size": config.embedding_rows,
        "max_sequence_length": config.max_length,
        "rope_theta": config.rope_theta,
        "rope_full_precision": config.rope_full_precision,
        "rms_norm_eps": config.rms_norm_eps,
        "weight_tying": config.tie_embeddings,
        "multi_query_attention": None,
        "mask_token_id": config.mask_token_id,
        "eos_token_id": list(config.stop_token_ids) if len(config.stop_token_ids) > 1 else config.stop_token_ids[0],
        "pad_token_id": config.pad_token_id,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "init_device": "meta",
        "use_cache": False,
        "torch_dtype": dtype,
    }
