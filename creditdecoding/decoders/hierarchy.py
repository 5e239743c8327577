"""Hierarchical decoding (dInfer's HierarchyDecoder, arXiv 2510.08666): every gap is split at its
surest position.

What is written together so lies apart. The original takes one row at a time and commits all equals
of a run; this takes
batches and the first of equals. Its `low` is 0.4, its threshold is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from creditdecoding.decoders.base import Block, Decision, Prediction, State, at_least_one
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Hierarchy:
    """Commits the best position of each run of masks if its confidence is above low, all above the
    threshold, and the best of the row.
    """

    threshold: float = option(
        0.9, "Confidence above which any position is committed.", ge=0.0, le=1.0
    )
    low: float = option(
        0.4, "Confidence above which the best position of a run is committed.", ge=0.0, le=1.0
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Find the runs, take the best of each."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        best = best_of_runs(confidence, block.masked, block.editable)
        passed = (best & (confidence > self.low)) | (confidence > self.threshold)
        return Decision(
            tokens, at_least_one(passed, confidence, block.editable), confidence.float()
        ), state


def best_of_runs(
    score: Float[Tensor, "rows length"],
    masked: Bool[Tensor, "rows length"],
    editable: Bool[Tensor, "rows length"],
) -> Bool[Tensor, "rows length"]:
    """The best editable position (the first of equals) of every unbroken run of masks of every row;
    scores are at least 0.
    """
    length = score.shape[1]
    starts = masked & ~torch.cat((torch.zeros_like(masked[:, :1]), masked[:, :-1]), dim=1)
    run = starts.cumsum(
        -1
    )  # 0 before the first run; behind a run its number goes on, without candidates
    score = torch.where(editable, score, -1.0)
    top = (
        score.new_full((len(score), length + 1), -1.0)
        .scatter_reduce(1, run, score, "amax")
        .gather(1, run)
    )
    column = torch.arange(length, device=score.device).expand(score.shape)
    found = torch.where(editable & (score == top), column, length)
    first = (
        column.new_full((len(score), length + 1), length)
        .scatter_reduce(1, run, found, "amin")
        .gather(1, run)
    )
    return column == first
