"""A control of `credit`: only the first step of a block counts. What it lacks compared with
`credit` is the history after that step.

`credit:beta=0` is the other control without history: the credit of the current step alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._credit import accumulate, fuse
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.decoders.credit import Credit
from creditdecoding.options import option


@dataclass(frozen=True)
class CreditFirst(Credit):
    """As credit, but only the top-1 of a position's first step in the block is credited; from then
    on its credit decays.
    """

    beta: float = option(
        0.7, "Decay of the credit a step; 1 keeps what the first step gave.", ge=0.0, le=1.0
    )

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Credit positions that have no slot yet, let the rest decay, fuse, compare."""
        alpha = torch.full((1,), self.alpha, device=prediction.lse.device)
        beta = torch.full((1,), self.beta, device=prediction.lse.device)
        first_step = block.masked & (state["slot_ids"] == 0).all(-1)
        increment = prediction.probability.pow(self.gamma)
        state = accumulate(state, prediction.ids, increment, beta, first_step)
        return fuse(prediction, block, state, self.threshold, alpha), state
