"""Family SDAR (JetLM/SDAR-1.7B to -30B-A3B, Gen-Verse/TraDo): Qwen3's network, dense or with
experts, block-causal.
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
"""Keys of the released files that the network does not use."""

BLOCK = 4
"""Block length where no file says another; -b8, -b16, ... say it in the repository's name alone."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError` for a missing field or one whose value
    is not implemented.
    """
    fields = ConfigReader(raw, generation)
    fields.require_values({"attention_bias": False})
    own: dict[str, Any] = {"qk_norm": True, "causal_block": fields.causal_block(BLOCK)}
    if fields.architecture == ARCHITECTURES[1]:
        fields.require_values({"decoder_sparse_step": 1, "mlp_only_layers": []})
        own["moe"] = fields.moe_config(
            "moe_intermediate_size", renormalize=fields.boolean("norm_topk_prob", True)
        )
        own["intermediate_size"] = fields.integer("intermediate_size", own["moe"].intermediate_size)
    return fields.model_config("sdar", **own)
