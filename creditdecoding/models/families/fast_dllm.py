"""Fast-dLLM v2 (Efficient-Large-Model/Fast_dLLM_v2_1.5B, _7B): Qwen2.5's network, block-causal,
with logits shifted by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader

ARCHITECTURES = ("Fast_dLLM_QwenForCausalLM",)

MODEL_TYPES = ("Fast_dLLM_Qwen",)

UNUSED = ("attention_bias", "sliding_window")
"""Keys that the network ignores; the tensors tell that there are biases."""

BLOCK = 32
"""Block length where config.json has no `bd_size`."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation)
    return reader.model_config(
        "fast_dllm", qkv_bias=True, logit_shift=True, causal_block=reader.causal_block(BLOCK)
    )
