"""Early commit (Prophet, arXiv 2508.19982): once the mean gap between the two best logits is large
enough, write all; walks the logits twice.

The authors look at five positions where they expect the answer and, when those are sure, write the
whole text. A decoder here
knows no answer region and sees one block: the mean is over the block's masked positions, progress
is the part of the block
that is written, and what is written is the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first, commit_in_order
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.options import check_fields, option

_MIDDLE, _LATE = 0.33, 0.67


@dataclass(frozen=True)
class Prophet:
    """Commits the k most confident a step, until the mean gap of the two best logits reaches early,
    mid or late (by progress): then all.
    """

    early: float = option(
        7.5,
        "Mean gap in logits that is enough while less than 33% of the block is written.",
        ge=0.0,
    )
    mid: float = option(5.0, "The same from 33% on.", ge=0.0)
    late: float = option(2.5, "The same from 67% on.", ge=0.0)
    k: int = option(1, "Tokens committed a step before that.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare each row's mean gap with what its progress asks for. A token of confidence 0 has
        gap 0.
        """
        tokens, logit = prediction.pick()
        confidence = prediction.confidence(tokens)
        best = prediction.top2()[1]
        gap = torch.where(block.masked & logit.isfinite(), best[..., 0] - best[..., 1], 0.0)
        left = block.masked.sum(-1)
        progress = 1.0 - left / block.initial_masks.clamp(min=1)
        late = torch.where(progress < _LATE, self.mid, self.late)
        enough = gap.sum(-1) / left.clamp(min=1) >= torch.where(
            progress < _MIDDLE, self.early, late
        )
        order = best_first(confidence, block.editable)
        rank = torch.arange(order.shape[1], device=order.device)
        commit = commit_in_order((rank < self.k) | enough[:, None], order, block.editable)
        return Decision(tokens, commit, confidence.float()), state
