"""Confidence threshold (Fast-dLLM, arXiv 2505.22618, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders.base import Block, Decision, Prediction, State, at_least_one
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Threshold:
    """Commits every position whose confidence is at least the threshold, and always the best one."""

    threshold: float = option(
        0.9, "Least confidence at which a token is committed.", ge=0.0, le=1.0
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare confidences with the threshold."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        return Decision(
            tokens,
            at_least_one(confidence >= self.threshold, confidence, block.editable),
            confidence.float(),
        ), state
