"""CreditDecoding without tuning (arXiv 2510.06133, section 4.3): constants from the mask ratio."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._credit import credit_step, empty_slots
from creditdecoding.decoders.base import (
    THRESHOLD_SWEEP,
    BaseDecoder,
    Block,
    Decision,
    Prediction,
    State,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class CreditAdaptive(BaseDecoder):
    """As credit, with gamma = 1 and alpha = beta = 1 - (masks left / masks the block began with),
    taken before the step commits.
    """

    threshold: float = option(
        0.9, "Least fused confidence at which a token is committed.", ge=0.0, le=1.0
    )

    sweep = THRESHOLD_SWEEP

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Empty (id, credit) slots for every position."""
        return empty_slots(rows, length, device)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Read the mask ratio of each row, then as `credit`."""
        written = 1.0 - block.masked.sum(-1) / block.initial_masks.clamp(min=1)
        return credit_step(prediction, block, state, self.threshold, written, written, 1.0)
