"""Factor rule (Fast-dLLM, arXiv 2505.22618, section 3.3): the least confident of n tokens must
allow n to be written together.

With error probabilities e_(1) <= e_(2) <= ..., n tokens are written if (n + 1) e_(n) < factor. The
left side grows with n, so the tokens that pass are a prefix. Public copies differ: they let
equality pass, and take or drop the last masked token whatever its confidence.
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


@dataclass(frozen=True)
class Factor(BaseDecoder):
    """Commits the n most confident tokens, n the largest with (n + 1)(1 - confidence of the n-th) <
    factor, and always the best one.
    """

    factor: float = option(
        1.0,
        "Bound on (n + 1)(1 - confidence of the n-th token); smaller is more careful.",
        gt=0.0,
    )

    sweep = Sweep("factor", (0.01, 0.02, 0.05, 0.1, 0.25, 1.0), low_is_safe=True)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Sort by confidence and compare each rank with its bound."""
        tokens, confidence = prediction.choose()
        order = best_first(confidence, block.editable)
        error = prediction.error_probability(tokens).gather(-1, order)
        rank = torch.arange(1, order.shape[1] + 1, device=order.device)
        commit = commit_in_order((rank + 1) * error < self.factor, order, block.editable)
        return Decision(tokens, commit, confidence.float()), state
