"""Threshold with a waiting time: the control of `credit` that keeps track of how long an id was
top-1 and drops the arithmetic.

`stable:sure=1` is the plain conjunction "confidence passes and the top-1 id did not change for k
steps"; `k=1` is `threshold`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Prediction,
    State,
    Sweep,
    at_least_one,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Stable(BaseDecoder):
    """Commits a token that was top-1 for k steps and has confidence >= threshold, any above sure,
    and always the best one.
    """

    threshold: float = option(
        0.8, "Least confidence of a token that was top-1 for k steps.", ge=0.0, le=1.0
    )
    k: int = option(2, "Steps in a row, this one included, with the same top-1 id.", ge=1)
    sure: float = option(
        0.9,
        "Confidence above which a token need not wait; 1 makes every token wait.",
        ge=0.0,
        le=1.0,
    )

    sweep = Sweep("threshold", (0.7, 0.8, 0.9, 0.95, 0.98, 0.99), (("sure", 0.5, 0.5),))

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Last top-1 id plus one, and for how many steps it has been top-1."""
        zeros = torch.zeros(rows, length, dtype=torch.long, device=device)
        return {"last_id": zeros, "steps": zeros}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Count, compare. With sampling, a drawn token that is not the top-1 has not waited."""
        stored = prediction.ids + 1
        steps = torch.where(state["last_id"] == stored, state["steps"] + 1, 1)
        tokens, confidence = prediction.choose()
        waited = (steps >= self.k) & (tokens == prediction.ids)
        passed = (waited & (confidence >= self.threshold)) | (confidence > self.sure)
        commit = at_least_one(passed, confidence, block.editable)
        return Decision(tokens, commit, confidence.float()), {"last_id": stored, "steps": steps}
