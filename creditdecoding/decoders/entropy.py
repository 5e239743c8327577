"""Entropy-bounded unmasking (EB-Sampler, arXiv 2505.24857), ordered by entropy. Walks the logits a
second time.

With H_(1) <= H_(2) <= ... the error of writing k tokens independently is at most sum H - max H,
which is the sum of the k - 1 smaller ones. It grows with k, so the tokens that pass are a prefix.
Positions whose token has confidence 0 go last, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

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
class Entropy(BaseDecoder):
    """Commits the k positions of lowest entropy, k the largest with (sum of their entropies) - (the
    largest of them) <= gamma.
    """

    gamma: float = option(
        0.1, "Entropy in nats that may be written at once, the largest one not counted.", ge=0.0
    )

    sweep = Sweep("gamma", (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), low_is_safe=True)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Sort by entropy and sum the entropies before each rank. The confidence in the trace is
        exp(-entropy).
        """
        tokens, _ = prediction.choose()
        suppressed = prediction.is_suppressed(tokens)
        entropy = prediction.entropy().masked_fill(suppressed, float("inf"))
        order = best_first(-entropy, block.editable)
        ranked = entropy.gather(-1, order)
        before = F.pad(ranked.cumsum(-1)[:, :-1], (1, 0))
        commit = commit_in_order((before <= self.gamma) & ranked.isfinite(), order, block.editable)
        return Decision(tokens, commit, (-entropy).exp()), state
