"""Early commit (Prophet, arXiv 2508.19982): once the mean gap between the two best logits is large
enough, write everything. Walks the logits a second time.

The authors look at five positions where they expect the answer and, when those are sure, write the
whole text. A decoder here knows no answer region and sees one block: the mean is over the block's
masked positions, progress is the part of the block that is written, and the block is what is
written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first, commit_in_order
from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Prediction,
    State,
    Sweep,
)
from creditdecoding.options import option

_MIDDLE, _LATE = 0.33, 0.67


@dataclass(frozen=True)
class Prophet(BaseDecoder):
    """Commits the k most confident a step until the mean gap of the two best logits reaches early,
    mid or late (by progress), then all.
    """

    early: float = option(
        7.5,
        "Mean gap in logits that is enough while less than 33% of the block is written.",
        ge=0.0,
    )
    mid: float = option(5.0, "The same from 33% on.", ge=0.0)
    late: float = option(2.5, "The same from 67% on.", ge=0.0)
    k: int = option(1, "Tokens committed a step before that.", ge=1)

    sweep = Sweep("early", (5.0, 7.5, 10.0, 15.0), (("mid", 2 / 3, 0.0), ("late", 1 / 3, 0.0)))

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare each row's mean gap with the one for its progress. A suppressed token counts as
        gap 0.
        """
        tokens, confidence = prediction.choose()
        _, logits = prediction.top2()
        counted = block.masked & ~prediction.is_suppressed(tokens)
        gap = torch.where(counted, logits[..., 0] - logits[..., 1], 0.0)
        masks_left = block.masked.sum(-1)
        progress = 1.0 - masks_left / block.initial_masks.clamp(min=1)
        mid_or_late = torch.where(progress < _LATE, self.mid, self.late)
        needed = torch.where(progress < _MIDDLE, self.early, mid_or_late)
        enough = gap.sum(-1) / masks_left.clamp(min=1) >= needed
        order = best_first(confidence, block.editable)
        rank = torch.arange(order.shape[1], device=order.device)
        commit = commit_in_order((rank < self.k) | enough[:, None], order, block.editable)
        return Decision(tokens, commit, confidence.float()), state
