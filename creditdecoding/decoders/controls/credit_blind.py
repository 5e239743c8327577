"""A control of `credit`: credit that does not know whose it is. What it lacks against `credit` is
the identity of the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._credit import fuse
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class CreditBlind:
    """As credit, but a position's credit grows whichever id is on top, and all of it goes to the
    current top-1.
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

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """One credit a position."""
        return {"credit": torch.zeros(rows, length, device=device)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Credit the position, lend it to the top-1, fuse, compare."""
        credit = torch.where(
            block.masked, state["credit"] * self.beta + prediction.probability.pow(self.gamma), 0.0
        )
        slots = {"slot_ids": (prediction.ids + 1)[..., None], "credit": credit[..., None]}
        alpha = torch.tensor([self.alpha], device=credit.device)
        return fuse(prediction, block, slots, self.threshold, alpha), {"credit": credit}
