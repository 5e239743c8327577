"""Joint threshold with token editing (LLaDA2.1, arXiv 2602.08676)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders.base import (
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    at_least_one,
)
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Edit:
    """Commits masks above a threshold and replaces tokens of the block whose likeliest token is now
    another, above a second threshold.

    Goes on over a block without masks until nothing is replaced, at most `max_post_steps` passes.
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

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def capabilities(self) -> Capabilities:
        """It overwrites tokens, for some passes also after the last mask is written."""
        return Capabilities(can_edit=True, extra_passes=self.max_post_steps)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Passes made without a mask, [rows]."""
        return {"post": torch.zeros(rows, dtype=torch.long, device=device)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Mask to token, and token to token."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        written = at_least_one(
            confidence > self.threshold, confidence, block.masked & block.editable
        )
        replaced = (
            block.editable
            & ~block.masked
            & (tokens != block.tokens)
            & (confidence > self.editing_threshold)
        )
        left = (block.masked & ~written).any(-1)
        bare = ~block.masked.any(-1)
        post = state["post"] + bare
        again = ~left & (~bare | replaced.any(-1)) & (post < self.max_post_steps)
        return Decision(tokens, written | replaced, confidence.float(), needs_another_pass=again), {
            "post": post
        }
