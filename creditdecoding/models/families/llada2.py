"""LLaDA2 (inclusionAI/LLaDA2.0-mini, -flash, LLaDA2.1-mini, -flash): block-causal, half of each
head rotated, sigmoid router limited to groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader
from creditdecoding.models.weights import Rename, stacked

ARCHITECTURES = ("LLaDA2MoeModelLM",)

MODEL_TYPES = ("llada2_moe", "llada2_moe_veomni", "llada21_moe")

UNUSED = ("sliding_window", "use_qk_norm")
"""Keys of released files that the network ignores; the tensors tell that there are norms."""

BLOCK = 32
"""Block length of the released checkpoints; it is in no file."""

_LAYER = "model.layers.{n}"

RENAME: Rename = {
    **QWEN,
    "embed.weight": "model.word_embeddings.weight",
    **stacked(
        f"{_LAYER}.attention.query_key_value.weight",
        "layers.{n}.q.weight",
        "layers.{n}.k.weight",
        "layers.{n}.v.weight",
    ),
    "layers.{n}.o.weight": f"{_LAYER}.attention.dense.weight",
    "layers.{n}.q_norm.weight": f"{_LAYER}.attention.query_layernorm.weight",
    "layers.{n}.k_norm.weight": f"{_LAYER}.attention.key_layernorm.weight",
    "layers.{n}.mlp.bias": f"{_LAYER}.mlp.gate.expert_bias",
    **{
        f"layers.{{n}}.mlp.shared.{x}.weight": f"{_LAYER}.mlp.shared_experts.{x}_proj.weight"
        for x in ("gate", "up", "down")
    },
}

# Fields that change the forward pass, with the only implemented value; absent fields mean it.
_FIXED: dict[str, Any] = {
    "moe_router_enable_expert_bias": True,
    "norm_head": False,
    "norm_softmax": False,
    "num_nextn_predict_layers": 0,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "use_bias": False,
    "use_qkv_bias": False,
}

_UNI_ROWS = 173568


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation)
    if raw.get("image_token_offset") is not None or raw.get("vocab_size") == _UNI_ROWS:
        raise CheckpointError(
            "LLaDA2.0-Uni writes images too and is not implemented",
            hint="Use LLaDA2.0-mini, -flash or LLaDA2.1.",
        )
    reader.require_values(_FIXED)
    reader.require("moe_intermediate_size", "routed_scaling_factor", "n_group", "topk_group")
    shared_experts = reader.integer("num_shared_experts", 0, least=0)
    moe = reader.moe_config(
        "moe_intermediate_size",
        shared_size=shared_experts * reader.integer("moe_intermediate_size"),
        dense_layers=reader.integer("first_k_dense_replace", 0, least=0),
        score="sigmoid",
        renormalize=reader.boolean("norm_topk_prob", True),
        scaling=reader.number("routed_scaling_factor"),
        groups=reader.integer("n_group"),
        top_groups=reader.integer("topk_group"),
        bias=True,
        router_float32=True,
    )
    return reader.model_config(
        "llada2",
        qk_norm=True,
        moe=moe,
        rotary_dim=_rotary_dim(reader),
        causal_block=reader.causal_block(BLOCK),
    )


def _rotary_dim(reader: ConfigReader) -> int:
    """How many dimensions of a head are rotated, from a share or a number; both must agree."""
    share, number = reader.rope()[1], reader.config.get("rotary_dim")
    if share is None and number is None:
        reader.require("partial_rotary_factor")
    default_head_dim = reader.integer("hidden_size") // reader.integer("num_attention_heads")
    head_dim = reader.integer("head_dim", default_head_dim)
    rotary_dim = reader.integer("rotary_dim") if share is None else int(head_dim * share)
    if number not in (None, rotary_dim) or rotary_dim > head_dim or rotary_dim % 2:
        raise CheckpointError(
            "config.json: partial_rotary_factor and rotary_dim do not agree",
            given=(share, number, head_dim),
            hint=reader.hint,
        )
    return rotary_dim
