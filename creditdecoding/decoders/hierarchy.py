"""Hierarchical decoding (dInfer's HierarchyDecoder, arXiv 2510.08666): every run of masks is split
at its most confident position, so that tokens that are written together are far apart.

The original takes one row at a time and commits all equals of a run; this takes batches and the
first of equals. Its `low` is 0.4; it leaves the threshold to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Positions,
    Prediction,
    Scores,
    State,
    Sweep,
    at_least_one,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Hierarchy(BaseDecoder):
    """Commits the best position of each run of masks if its confidence is above low, all above the
    threshold, and the best of the row.
    """

    threshold: float = option(
        0.9, "Confidence above which any position is committed.", ge=0.0, le=1.0
    )
    low: float = option(
        0.4, "Confidence above which the best position of a run is committed.", ge=0.0, le=1.0
    )

    sweep = Sweep("threshold", (0.85, 0.9, 0.95, 0.98, 0.99, 0.999), (("low", 6.0, -5.0),))

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Find the runs and take the best position of each."""
        tokens, confidence = prediction.choose()
        best = best_of_runs(confidence, block.masked, block.editable)
        passed = (best & (confidence > self.low)) | (confidence > self.threshold)
        commit = at_least_one(passed, confidence, block.editable)
        return Decision(tokens, commit, confidence.float()), state


def best_of_runs(
    score: Scores,
    masked: Positions,
    editable: Positions,
) -> Positions:
    """The best editable position (the first of equals) of every unbroken run of masks of every row.
    Scores are at least 0.
    """
    rows, length = score.shape
    starts = masked & ~torch.cat((torch.zeros_like(masked[:, :1]), masked[:, :-1]), dim=1)
    # 0 before the first run. Positions after a run have its number, but none of them is editable.
    run = starts.cumsum(-1)
    score = torch.where(editable, score, -1.0)
    best_score = score.new_full((rows, length + 1), -1.0).scatter_reduce(1, run, score, "amax")
    column = torch.arange(length, device=score.device).expand(score.shape)
    is_best = editable & (score == best_score.gather(1, run))
    candidate = torch.where(is_best, column, length)
    first = column.new_full((rows, length + 1), length).scatter_reduce(1, run, candidate, "amin")
    return column == first.gather(1, run)
