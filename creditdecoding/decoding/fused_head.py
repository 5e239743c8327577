"""Which requests need whole logits, and so cannot be decoded from the head alone."""

from __future__ import annotations

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import settings
from creditdecoding.decoders.base import Decoder, capabilities_of
from creditdecoding.errors import OptionError
from creditdecoding.models.kv_cache import ModelGeometry

AUTO_BYTES = 1 << 27
"""With `fused_head` auto a pass whose logits would take more than this does not write them."""

FUSED_BYTES = 256
"""What a position of a pass takes at most in place of its logits: statistics and its share of a
tile. Hidden states are counted with the network's activations.
"""


def whole_logits_reason(decoder: Decoder, config: GenerationConfig | None = None) -> str | None:
    """What needs whole logits in a request with this decoder and config; None: nothing does.

    Without a config, of the decoder alone. Greedy requests use neither top_k nor top_p.
    """
    if capabilities_of(decoder).dense_state:
        return f"decoder {settings(decoder)['name']}"
    if config is None:
        return None
    if config.cfg_scale > 0:
        return f"cfg_scale {config.cfg_scale}"
    if config.temperature > 0 and config.top_k is not None:
        return f"top_k {config.top_k}"
    if config.temperature > 0 and config.top_p is not None:
        return f"top_p {config.top_p}"
    return None


def leaves_unwritten(geometry: ModelGeometry, lines: int) -> bool:
    """Whether a pass that reads `lines` of logits, none of them needed whole, writes none."""
    if geometry.fused_head == "auto":
        return lines * geometry.line_bytes > AUTO_BYTES
    return geometry.fused_head == "on"


def most_logits_bytes(geometry: ModelGeometry, lines: int) -> int:
    """The most bytes that `lines` of logits take in such a pass, and in one that reads fewer."""
    limit = AUTO_BYTES if geometry.fused_head == "auto" else 0
    if leaves_unwritten(geometry, lines):
        return limit + lines * FUSED_BYTES
    return lines * geometry.line_bytes


def check_fused_head(
    geometry: ModelGeometry, decoder: Decoder, config: GenerationConfig | None = None
) -> None:
    """Raise `OptionError` if the logits must never be written and something needs them."""
    reason = whole_logits_reason(decoder, config)
    if geometry.fused_head == "on" and reason is not None:
        raise OptionError(
            "whole logits are needed, which fused_head on never writes",
            given=reason,
            allowed="decoders without dense state, and no cfg_scale, top_k or top_p",
            hint="Load the model with fused_head auto, or leave this out.",
        )
