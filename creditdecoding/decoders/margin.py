"""Margin between the two likeliest tokens (Dream's `topk_margin`, arXiv 2508.15487; Kim et al.,
arXiv 2502.06768). Walks the logits a second time.

The margin belongs to the position: with sampling it is that of the distribution, whatever token is
drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first, commit_in_order
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
class Margin(BaseDecoder):
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

    sweep = THRESHOLD_SWEEP

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Rank the leads. The confidence in the trace is the lead, 0 for suppressed tokens."""
        tokens, _ = prediction.choose()
        ids, logits = prediction.top2()
        first = prediction.confidence(ids[..., 0])
        second_to_first = (logits[..., 1] - logits[..., 0]).to(first.dtype).exp()
        lead = first * (1.0 - second_to_first)
        lead = lead.masked_fill(prediction.is_suppressed(tokens), 0.0)
        order = best_first(lead, block.editable)
        rank = torch.arange(order.shape[1], device=order.device)
        passed = (rank < self.k) | (lead.gather(-1, order) > self.threshold)
        return Decision(tokens, commit_in_order(passed, order, block.editable), lead.float()), state
