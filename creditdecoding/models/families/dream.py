"""Dream (Dream-org/Dream-v0, Dream-Coder-v0, apple/DiffuCoder): Qwen2.5's network with full
attention and logits shifted by one.
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
"""Keys that the network ignores; the tensors tell that there are biases."""

RENAME = QWEN


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation)
    reader.require_values({"use_mrope": False})
    return reader.model_config("dream", qkv_bias=True, logit_shift=True)
