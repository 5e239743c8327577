"""Released masked block-diffusion models as vLLM runs them: its own networks, another model state.

SDAR is Qwen3's network and LLaDA2 is Ling 2's; only attention and decoding differ, and both belong
to the model state.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.bailing_moe import BailingMoeV2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.qwen3_moe import Qwen3MoeForCausalLM

from creditdecoding.integrations.vllm.model_state import BlockDiffusionState


class _DecodedByRules:
    """What makes a network of vLLM a block-diffusion model."""

    @staticmethod
    def get_model_state_cls() -> type[BlockDiffusionState]:
        """vLLM asks for it once the model is loaded."""
        return BlockDiffusionState


class SdarForBlockDiffusion(_DecodedByRules, Qwen3ForCausalLM):
    """SDAR with a dense network."""


class SdarMoeForBlockDiffusion(_DecodedByRules, Qwen3MoeForCausalLM):
    """SDAR with experts."""


class Llada2ForBlockDiffusion(_DecodedByRules, BailingMoeV2ForCausalLM):
    """LLaDA2, whose config.json does not say that queries and keys are normalised."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        config.use_qk_norm = config.use_rmsnorm = True
        super().__init__(vllm_config=vllm_config, prefix=prefix)
