"""What a launch of vLLM must hold for masked block-diffusion models, and which requests it serves.

vLLM calls this for the architectures that the plug-in registers, and for no others.
"""

from __future__ import annotations

from typing import Any

from vllm import ModelRegistry
from vllm.config.diffusion import DiffusionConfig
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.v1.engine import input_processor

from creditdecoding.errors import OptionError
from creditdecoding.integrations.vllm.served import FAMILIES, MODELS, served_rule

UNSUPPORTED = {
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "structured_outputs": None,
    "logprobs": None,
    "prompt_logprobs": None,
    "logprob_token_ids": None,
    "thinking_token_budget": None,
}
"""Sampling parameters that the rules do not serve, with their neutral values."""


class BlockDiffusionLaunch(VerifyAndUpdateConfig):
    """Checks and completes a launch. Raises `OptionError`."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """A `canvas_length` in the checkpoint's config makes it a diffusion model to vLLM."""
        hf_config = model_config.hf_config
        family = FAMILIES[model_config.architecture]
        if getattr(hf_config, "canvas_length", None) is None:
            trained = getattr(hf_config, "block_size", None)
            hf_config.canvas_length = trained or family.block_length

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Called once in every process that makes a configuration."""
        trained = vllm_config.model_config.hf_config.canvas_length
        if vllm_config.diffusion_config is None:
            vllm_config.diffusion_config = DiffusionConfig(canvas_length=trained)
        canvas = vllm_config.diffusion_config.canvas_length
        if canvas != trained:
            raise OptionError(
                "the checkpoint does not allow this canvas",
                given=canvas,
                allowed=trained,
                hint="Leave canvas_length out of --diffusion-config, or change both by "
                f"--hf-overrides '{{\"canvas_length\": {canvas}}}'.",
            )
        served_rule(vllm_config)
        _sample_whole_batches(vllm_config)
        _keep_blocks_whole(vllm_config)
        vllm_config.attention_config.use_non_causal = True
        vllm_config.cache_config.enable_prefix_caching = False
        input_processor.validate_diffusion_sampling_params = validate_request


def register_models() -> None:
    """Name our models to vLLM, which imports them when it serves one."""
    for architecture, family in FAMILIES.items():
        ModelRegistry.register_model(architecture, f"{MODELS}:{family.model_class}")
        MODELS_CONFIG_MAP[architecture] = BlockDiffusionLaunch


def _sample_whole_batches(vllm_config: Any) -> None:
    """Every rank decides for all requests: a rule's state is kept by the batch."""
    if vllm_config.parallel_config.enable_batch_sharded_sampling:
        raise OptionError(
            "the rules decide for whole batches, and this option shares requests out among ranks",
            given="--enable-batch-sharded-sampling",
            hint="Leave it out.",
        )


def _keep_blocks_whole(vllm_config: Any) -> None:
    """Neither a block of a prompt nor a canvas may be cut: its positions see each other."""
    scheduler = vllm_config.scheduler_config
    canvas = vllm_config.diffusion_config.canvas_length
    least = max(vllm_config.model_config.max_model_len, scheduler.max_num_seqs * canvas)
    if scheduler.max_num_batched_tokens < least:
        raise OptionError(
            "a pass must hold a whole prompt, and the canvases of all sequences",
            given=f"--max-num-batched-tokens {scheduler.max_num_batched_tokens}",
            allowed=f"at least {least}",
            hint=f"Add --max-num-batched-tokens {least}, or lower --max-model-len and "
            "--max-num-seqs.",
        )
    scheduler.enable_chunked_prefill = False


def validate_request(
    params: Any, *, canvas_length: int | None, vocab_size: int, **of_later_releases: Any
) -> None:
    """In place of vLLM's check for its own diffusion model: refuse what the rules do not serve.

    Later vLLMs also say whether scheduling is asynchronous; the rules run with both. Raises
    `VLLMValidationError`, which vLLM answers with status 400.
    """
    unsupported = [
        name
        for name, neutral in UNSUPPORTED.items()
        if getattr(params, name, neutral) not in (neutral, [], {})
    ]
    extra = params.extra_args or {}
    unsupported += [name for name in extra if name.startswith("diffusion_")]
    if unsupported:
        names = ", ".join(unsupported)
        raise VLLMValidationError(
            f"{names}: not supported by the rules of creditdecoding. Leave it out.",
            parameter=unsupported[0],
        )
