"""A control of `credit`: the credit belongs to a position, not to a candidate. What it lacks
compared with `credit` is the identity of the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._credit import fuse
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.decoders.credit import Credit


@dataclass(frozen=True)
class CreditBlind(Credit):
    """As credit, but a position's credit grows whichever id is top-1, and all of it goes to the
    current top-1.
    """

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """One credit a position."""
        return {"credit": torch.zeros(rows, length, device=device)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Credit the position, lend the credit to the top-1, fuse, compare."""
        credit = state["credit"] * self.beta + prediction.probability.pow(self.gamma)
        credit = torch.where(block.masked, credit, 0.0)
        slots = {"slot_ids": (prediction.ids + 1)[..., None], "credit": credit[..., None]}
        alpha = torch.full((1,), self.alpha, device=credit.device)
        return fuse(prediction, block, slots, self.threshold, alpha), {"credit": credit}
