"""Confidence threshold (Fast-dLLM, arXiv 2505.22618, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from creditdecoding.decoders.base import (
    THRESHOLD_SWEEP,
    BaseDecoder,
    Block,
    Decision,
    Prediction,
    State,
    at_least_one,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Threshold(BaseDecoder):
    """Commits all positions whose confidence is at least the threshold, and always the best one."""

    threshold: float = option(
        0.9, "Least confidence at which a token is committed.", ge=0.0, le=1.0
    )

    sweep = THRESHOLD_SWEEP

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare confidences with the threshold."""
        tokens, confidence = prediction.choose()
        commit = at_least_one(confidence >= self.threshold, confidence, block.editable)
        return Decision(tokens, commit, confidence.float()), state
