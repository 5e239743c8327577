"""Joint threshold with token editing (LLaDA2.1, arXiv 2602.08676)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    Sweep,
    at_least_one,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Edit(BaseDecoder):
    """Commits masks above a threshold and replaces tokens of the block whose likeliest token is now
    another, above a second threshold.

    Continues on a block without masks until nothing is replaced, for at most `max_post_steps`
    passes.
    """

    threshold: float = option(
        0.7,
        "Confidence above which a mask is written (released: 0.7 for quality, 0.5 for speed).",
        ge=0.0,
        le=1.0,
    )
    editing_threshold: float = option(
        0.5,
        "Confidence above which a token is replaced (released: 0.5 for quality, 0 for speed).",
        ge=0.0,
        le=1.0,
    )
    max_post_steps: int = option(
        16, "Passes at most over a block in which nothing is masked.", ge=0
    )

    sweep = Sweep("threshold", (0.6, 0.8, 0.9, 0.95, 0.99))

    @property
    def capabilities(self) -> Capabilities:
        """It overwrites tokens, for some passes also after the last mask is written."""
        return Capabilities(can_edit=True, extra_passes=self.max_post_steps)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Passes made without a mask, [rows]."""
        return {"post_steps": torch.zeros(rows, dtype=torch.long, device=device)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Write masks, and replace tokens."""
        tokens, confidence = prediction.choose()
        writable = block.masked & block.editable
        written = at_least_one(confidence > self.threshold, confidence, writable)
        differs = block.editable & ~block.masked & (tokens != block.tokens)
        replaced = differs & (confidence > self.editing_threshold)
        masks_left = (block.masked & ~written).any(-1)
        no_masks = ~block.masked.any(-1)
        post_steps = state["post_steps"] + no_masks
        changed = ~no_masks | replaced.any(-1)
        another_pass = ~masks_left & changed & (post_steps < self.max_post_steps)
        decision = Decision(
            tokens, written | replaced, confidence.float(), needs_another_pass=another_pass
        )
        return decision, {"post_steps": post_steps}
