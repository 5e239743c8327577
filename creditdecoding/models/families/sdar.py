"""SDAR (JetLM/SDAR-1.7B to -30B-A3B, Gen-Verse/TraDo): Qwen3's network, dense or with experts,
block-causal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader

ARCHITECTURES = ("SDARForCausalLM", "SDARMoeForCausalLM")

MODEL_TYPES = ("sdar", "sdar_moe")

UNUSED = ("sliding_window",)
"""Keys of released files that the network ignores."""

BLOCK = 4
"""Block length where no file says another; -b8, -b16, ... say it in the repository's name alone."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation)
    reader.require_values({"attention_bias": False})
    family_values: dict[str, Any] = {"qk_norm": True, "causal_block": reader.causal_block(BLOCK)}
    if reader.architecture == ARCHITECTURES[1]:
        reader.require_values({"decoder_sparse_step": 1, "mlp_only_layers": []})
        moe = reader.moe_config(
            "moe_intermediate_size", renormalize=reader.boolean("norm_topk_prob", True)
        )
        unused = reader.integer("intermediate_size", moe.intermediate_size)
        family_values |= {"moe": moe, "intermediate_size": unused}
    return reader.model_config("sdar", **family_values)
