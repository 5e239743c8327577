"""CreditDecoding (arXiv 2510.06133, Eq. 6 and 7, Algorithm 1) with the paper's alpha, beta and
gamma; 0.9 is Fast-dLLM's threshold.
"""

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
class Credit(BaseDecoder):
    """Adds alpha * log(1 + trace credit) to each logit, then commits whatever passes the threshold,
    and always the best one.
    """

    threshold: float = option(
        0.9, "Least fused confidence at which a token is committed.", ge=0.0, le=1.0
    )
    alpha: float = option(0.65, "Weight of the credit in the logits.", ge=0.0)
    beta: float = option(0.7, "Decay of the credit a step.", ge=0.0, le=1.0)
    gamma: float = option(
        0.2,
        "Exponent of the probability that is credited; below 1 it lifts weak candidates.",
        gt=0.0,
    )

    sweep = THRESHOLD_SWEEP

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Empty (id, credit) slots for every position."""
        return empty_slots(rows, length, device)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Credit the top-1 ids, fuse, compare."""
        device = prediction.ids.device
        alpha = torch.full((1,), self.alpha, device=device)  # no copy that the host waits for
        beta = torch.full((1,), self.beta, device=device)
        return credit_step(prediction, block, state, self.threshold, alpha, beta, self.gamma)
