"""Fast-dLLM v2 (Efficient-Large-Model/Fast_dLLM_v2_1.5B, _7B): Qwen2.5's network, block-causal,
with logits shifted by one.

Adapters of other bases use its format too: without biases of queries, keys and values
(`attention_bias` false, Llama) or with norms of heads (`qk_norm` true, Qwen3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader

ARCHITECTURES = ("Fast_dLLM_QwenForCausalLM",)

MODEL_TYPES = ("Fast_dLLM_Qwen",)

UNUSED = ("sliding_window",)
"""Keys that the network ignores."""

BLOCK = 32
"""Block length where config.json has no `bd_size`."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation, rope_types=("default", "llama3"))
    return reader.model_config(
        "fast_dllm",
        qkv_bias=reader.boolean("attention_bias", True),
        qk_norm=reader.boolean("qk_norm", False),
        logit_shift=True,
        causal_block=reader.causal_block(BLOCK),
    )
