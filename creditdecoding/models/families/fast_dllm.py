"""Family Fast-dLLM v2 (Efficient-Large-Model/Fast_dLLM_v2_1.5B, _7B): Qwen2.5's network,
block-causal, logits shifted by one.
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
"""Keys that the network does not use; the tensors say that there are biases."""

BLOCK = 32
"""Block length where config.json has no `bd_size`."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError` for a missing field or one whose value
    is not implemented.
    """
    fields = ConfigReader(raw, generation)
    return fields.model_config(
        "fast_dllm", qkv_bias=True, logit_shift=True, causal_block=fields.causal_block(BLOCK)
    )
