"""Family Dream (Dream-org/Dream-v0, Dream-Coder-v0, apple/DiffuCoder): Qwen2.5's network with full
attention, logits shifted by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader

ARCHITECTURES = ("DreamModel",)

MODEL_TYPES = ("Dream", "dream")

UNUSED = ("attention_bias", "sliding_window")
"""Keys that the network does not use; the tensors say that there are biases."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError` for a missing field or one whose value
    is not implemented.
    """
    fields = ConfigReader(raw, generation)
    fields.require_values({"use_mrope": False})
    return fields.model_config("dream", qkv_bias=True, logit_shift=True)
