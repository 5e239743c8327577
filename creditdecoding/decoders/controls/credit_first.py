"""A control of `credit`: only the first step of a block counts. What it lacks against `credit` is
the history after that step.

`credit:beta=0` is the other control without history: the credit of the current step alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._credit import accumulate, empty_slots, fuse
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class CreditFirst:
    """As credit, but only the top-1 of a position's first step in the block is credited; from then
    on its credit decays.
    """

    threshold: float = option(
        0.9, "Least fused confidence at which a token is committed.", ge=0.0, le=1.0
    )
    alpha: float = option(0.65, "Weight of the credit in the logits.", ge=0.0)
    beta: float = option(
        0.7, "Decay of the credit a step; 1 keeps what the first step gave.", ge=0.0, le=1.0
    )
    gamma: float = option(
        0.2,
        "Exponent of the probability that is credited; below 1 it lifts weak candidates.",
        gt=0.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Empty (id, credit) slots for every position."""
        return empty_slots(rows, length, device)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Credit what has no slot yet, let the rest decay, fuse, compare."""
        alpha, beta = (
            torch.tensor([value], device=prediction.lse.device) for value in (self.alpha, self.beta)
        )
        fresh = block.masked & (state["slot_ids"] == 0).all(-1)
        state = accumulate(
            state, prediction.ids, prediction.probability.pow(self.gamma), beta, fresh
        )
        return fuse(prediction, block, state, self.threshold, alpha), state
