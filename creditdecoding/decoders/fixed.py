"""Standard decoding: a fixed number of tokens a step (LLaDA, arXiv 2502.09992, low-confidence or
random remasking).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first, scheduled_count
from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Positions,
    Prediction,
    Scores,
    State,
    Sweep,
)
from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Fixed(BaseDecoder):
    """Commits the k positions of highest confidence, or k random ones, at every step; k is given or
    follows from the number of steps for a block.
    """

    k: int = option(
        1,
        "Tokens committed a step; 1 is the reference that every other decoder is measured against.",
        ge=1,
    )
    steps: int | None = option(
        None,
        "In place of k: steps a block takes, as even as possible; the first ones commit one more.",
        ge=1,
    )
    order: str = option(
        "low_confidence",
        "Which positions: keep the most confident, or random ones.",
        choices=("low_confidence", "random"),
    )

    sweep = Sweep("k", (1.0, 2.0, 3.0, 4.0), low_is_safe=True)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps is not None and self.k != 1:
            raise OptionError(
                "k and steps exclude each other",
                given=f"k={self.k}, steps={self.steps}",
                hint="Give one of the two.",
            )

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Rank the editable positions and commit the first k."""
        tokens, confidence = prediction.choose()
        score = confidence if self.order == "low_confidence" else prediction.uniform()
        if self.steps is None and self.k == 1:
            return Decision(tokens, _best(score, block.editable), confidence.float()), state
        rank = best_first(score, block.editable).argsort(dim=-1)
        commit = (rank < self._count(block)[:, None]) & block.editable
        return Decision(tokens, commit, confidence.float()), state

    def _count(self, block: Block) -> torch.Tensor:
        """Tokens that this step commits [rows]."""
        if self.steps is None:
            return torch.full_like(block.initial_masks, self.k)
        return scheduled_count(block, self.steps)


def _best(score: Scores, editable: Positions) -> Positions:
    """The editable position of highest score in each row, the first of equals."""
    best = torch.where(editable, score, -torch.inf).argmax(-1, keepdim=True)
    return torch.zeros_like(editable).scatter_(1, best, True) & editable
