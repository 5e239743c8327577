"""What the plug-in serves: families of models, and the rule that a launch names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from creditdecoding.decoders import load
from creditdecoding.decoders.base import Decoder
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
    name with knobs, a mapping, or a file of either kind. Raises `OptionError`.
    """
    settings = dict(vllm_config.additional_config or {})
    rule = settings.get(SETTINGS, DEFAULT_RULE)
    decoder, _ = load(rule)
    return check_decoder(decoder, str(rule))
