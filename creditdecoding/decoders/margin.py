"""Margin between the two likeliest tokens (Dream's `topk_margin`, arXiv 2508.15487; Kim et al.,
arXiv 2502.06768); walks the logits twice.

The margin belongs to the position: with sampling it is that of the distribution, whatever token is
drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first, commit_in_order
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Margin:
    """Commits the k positions where the likeliest token leads the second by most, and every one
    whose lead is above the threshold.
    """

    k: int = option(1, "Positions committed at least.", ge=1)
    threshold: float = option(
        1.0,
        "Lead in probability above which any position is committed; 1 leaves it to k.",
        ge=0.0,
        le=1.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Rank the leads; the confidence told is the lead, 0 where the token has confidence 0."""
        tokens, logit = prediction.pick()
        ids, best = prediction.top2()
        first = prediction.confidence(ids[..., 0])
        second = (best[..., 1] - best[..., 0]).to(first.dtype).exp()  # as a part of the first
        lead = first * (1.0 - second)
        lead = lead.masked_fill(logit == float("-inf"), 0.0)
        order = best_first(lead, block.editable)
        rank = torch.arange(order.shape[1], device=order.device)
        commit = commit_in_order(
            (rank < self.k) | (lead.gather(-1, order) > self.threshold), order, block.editable
        )
        return Decision(tokens, commit, lead.float()), state
