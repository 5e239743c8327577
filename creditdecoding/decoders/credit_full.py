"""CreditDecoding over the full vocabulary (arXiv 2510.06133, Eq. 13): our reading of it.

The exact form of Eq. 13 could not be checked; this credits every id, C[i, v] = beta C[i, v] + p[i,
v]^gamma, not only the top-1. Its state is [rows, length, vocab] float32: for studies, not for
serving.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders.base import (
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    at_least_one,
)
from creditdecoding.decoders.credit import Credit


@dataclass(frozen=True)
class CreditFull(Credit):
    """As credit, but every id of the vocabulary gains credit at every step, not only the top-1 (our
    reading; dense state).
    """

    capabilities = Capabilities(dense_state=True)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Zero credit for every id of every position."""
        return {"credit": torch.zeros(rows, length, vocab, device=device)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Credit all ids, fuse, compare."""
        credit = state["credit"] * self.beta + prediction.log_probs().exp().pow(self.gamma)
        fused = prediction.with_boost(self.alpha * torch.log1p(credit))
        tokens, confidence = fused.choose()
        commit = at_least_one(confidence >= self.threshold, confidence, block.editable)
        token_credit = credit.gather(-1, tokens[..., None])[..., 0]
        return Decision(tokens, commit, confidence.float(), token_credit), {"credit": credit}
