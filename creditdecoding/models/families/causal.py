"""Autoregressive networks that adapters start from: Llama, Qwen2 and Qwen3.

Attention is causal, which is block-causal with blocks of one position, and the logits of position i
are read at position i - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader

QWEN2, QWEN3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"

ARCHITECTURES = ("LlamaForCausalLM", QWEN2, QWEN3)

MODEL_TYPES = ("llama", "qwen2", "qwen3")

UNUSED = ("sliding_window",)
"""Keys of released files that the network ignores."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation, rope_types=("default", "llama3"))
    own_type = MODEL_TYPES[ARCHITECTURES.index(reader.architecture)]
    reader.require_values({"model_type": own_type, "attention_bias": False, "mlp_bias": False})
    return reader.model_config(
        "causal",
        qkv_bias=reader.architecture == QWEN2,
        qk_norm=reader.architecture == QWEN3,
        logit_shift=True,
        causal_block=1,
    )
