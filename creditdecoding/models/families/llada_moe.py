"""LLaDA-MoE (inclusionAI/LLaDA-MoE-7B-A1B-Base, -Instruct): full attention, per-head norms, 8 of
64 experts in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader

ARCHITECTURES = ("LLaDAMoEModel", "LLaDAMoEModelLM")

MODEL_TYPES = ("llada", "lladamoe", "llada_moe")

UNUSED = ("norm_topk_prob", "router_num_group", "router_topk_group")
"""Keys of released files that the network ignores: its router has no groups and never renormalises.
"""

RENAME = QWEN

# Fields that change the forward pass, with the only implemented value; absent fields mean it.
_FIXED: dict[str, Any] = {
    "attention_bias": False,
    "clip_qkv": None,
    "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax",
    "qk_layernorm": True,
    "routed_scaling_factor": 1,
    "shared_expert_intermediate_size": None,
}


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation)
    reader.require_values(_FIXED)
    moe = reader.moe_config("expert_intermediate_size")
    frequency = raw.get("moe_layer_freq")
    per_layer = frequency if isinstance(frequency, list) else [frequency]
    if frequency is not None and any(value != 1 for value in per_layer):
        raise reader.not_implemented("moe_layer_freq", frequency, "1 for every layer")
    unused = reader.integer("dense_intermediate_size", moe.intermediate_size)
    return reader.model_config("llada_moe", intermediate_size=unused, qk_norm=True, moe=moe)
