"""What the plug-in serves: families of models, and the rule that a launch names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from creditdecoding.decoders import load
from creditdecoding.decoders.base import Decoder
from creditdecoding.errors import OptionError
from creditdecoding.integrations.blocks import check_decoder

MODELS = "creditdecoding.integrations.vllm.models"
SETTINGS = "creditdecoding"
"""Our key in vLLM's `--additional-config`."""

DEFAULT_RULE = "credit"


@dataclass(frozen=True)
class ServedFamily:
    """A family of models: its class in `MODELS`, and what its checkpoints do not say themselves."""

    model_class: str
    mask_id: int
    block_length: int


FAMILIES = {
    "SDARForCausalLM": ServedFamily("SdarForBlockDiffusion", 151669, 4),
    "SDARMoeForCausalLM": ServedFamily("SdarMoeForBlockDiffusion", 151669, 4),
    "LLaDA2MoeModelLM": ServedFamily("Llada2ForBlockDiffusion", 156895, 32),
}
"""By architecture, as config.json names it."""


def served_rule(vllm_config: Any) -> Decoder:
    """The decoder that `--additional-config '{"creditdecoding": "credit:threshold=0.95"}'` names: a
    name with knobs, a mapping, or a file of either kind. Raises `OptionError`, also for the
    `block_size` of another canvas than the launch has.
    """
    settings = dict(vllm_config.additional_config or {})
    rule = settings.get(SETTINGS, DEFAULT_RULE)
    decoder, block_size = load(rule)
    canvas = vllm_config.diffusion_config.canvas_length
    if block_size not in (None, canvas):
        raise OptionError(
            "the checkpoint does not allow these blocks",
            given=f"block_size={block_size}",
            allowed=canvas,
            hint="Change block_size in the settings of the rule, or leave it out.",
        )
    return check_decoder(decoder, str(rule))
