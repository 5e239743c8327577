"""Local determinism propagation (LocalLeap, arXiv 2510.07081): near a sure token the threshold is
lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from creditdecoding.decoders.base import Block, Decision, Prediction, State, at_least_one
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class LocalLeap:
    """Commits every anchor (confidence >= threshold), every position near an anchor with confidence
    >= relaxed, and always the best one.
    """

    threshold: float = option(0.9, "Least confidence of an anchor.", ge=0.0, le=1.0)
    relaxed: float = option(0.75, "Least confidence of a position near an anchor.", ge=0.0, le=1.0)
    radius: int = option(4, "How many positions away from an anchor are near.", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state: anchors are those of this step."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Find the anchors, widen them by the radius, compare."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        anchor = (confidence >= self.threshold) & block.editable
        passed = anchor | (near(anchor, self.radius) & (confidence >= self.relaxed))
        return Decision(
            tokens, at_least_one(passed, confidence, block.editable), confidence.float()
        ), state


def near(anchor: Bool[Tensor, "rows length"], radius: int) -> Bool[Tensor, "rows length"]:
    """The positions at most `radius` away from an anchor."""
    reach = min(radius, anchor.shape[1])
    return F.max_pool1d(anchor[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
