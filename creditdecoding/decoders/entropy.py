"""Entropy-bounded unmasking (EB-Sampler, arXiv 2505.24857), ordered by entropy; walks the logits a
second time.

With H_(1) <= H_(2) <= ... the error of writing k tokens independently is at most sum H - max H,
which is the sum of the k - 1
smaller ones. It grows with k, so the tokens that pass are a prefix. Positions whose token has
confidence 0 go last, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from creditdecoding.decoders._order import best_first, commit_in_order
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Entropy:
    """Commits the k positions of lowest entropy, k the largest with (sum of their entropies) - (the
    largest of them) <= gamma.
    """

    gamma: float = option(
        0.1, "Entropy in nats that may be written at once, the largest one not counted.", ge=0.0
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Sort by entropy, sum those before each rank. The confidence told is exp(-entropy)."""
        tokens, logit = prediction.pick()
        entropy = prediction.entropy().masked_fill(logit == float("-inf"), float("inf"))
        order = best_first(-entropy, block.editable)
        ranked = entropy.gather(-1, order)
        before = F.pad(ranked.cumsum(-1)[:, :-1], (1, 0))
        commit = commit_in_order((before <= self.gamma) & ranked.isfinite(), order, block.editable)
        return Decision(tokens, commit, (-entropy).exp()), state
