"""Local determinism propagation (LocalLeap, arXiv 2510.07081): near a sure token the threshold is
lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Positions,
    Prediction,
    State,
    Sweep,
    at_least_one,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class LocalLeap(BaseDecoder):
    """Commits every anchor (confidence >= threshold), every position near an anchor with confidence
    >= relaxed, and always the best one.
    """

    threshold: float = option(0.9, "Least confidence of an anchor.", ge=0.0, le=1.0)
    relaxed: float = option(0.75, "Least confidence of a position near an anchor.", ge=0.0, le=1.0)
    radius: int = option(4, "How many positions away from an anchor are near.", ge=0)

    sweep = Sweep("threshold", (0.85, 0.9, 0.95, 0.98, 0.99, 0.999), (("relaxed", 2.5, -1.5),))

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Find this step's anchors, widen them by the radius, compare."""
        tokens, confidence = prediction.choose()
        anchor = (confidence >= self.threshold) & block.editable
        passed = anchor | (within(self.radius, anchor) & (confidence >= self.relaxed))
        commit = at_least_one(passed, confidence, block.editable)
        return Decision(tokens, commit, confidence.float()), state


def within(radius: int, anchor: Positions) -> Positions:
    """The positions at most `radius` away from an anchor."""
    reach = min(radius, anchor.shape[1])
    return F.max_pool1d(anchor[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
