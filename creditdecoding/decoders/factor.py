"""Factor rule (Fast-dLLM, arXiv 2505.22618, section 3.3): the weakest of n tokens must allow n to
be written together.

With e_(1) <= e_(2) <= ... the probabilities of being wrong, n tokens are written if (n + 1) e_(n) <
factor. The left side grows with n, so
the tokens that pass are a prefix. Public copies differ: they let equality pass, and take or drop
the last masked token
whatever its confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first, commit_in_order
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Factor:
    """Commits the n most confident tokens, n the largest with (n + 1)(1 - confidence of the n-th) <
    factor, and always the best one.
    """

    factor: float = option(
        1.0, "Bound on (n + 1) times the doubt of the n-th token; smaller is more careful.", gt=0.0
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Sort by confidence, compare each rank with its bound."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        order = best_first(confidence, block.editable)
        doubt = prediction.error_probability(tokens).gather(-1, order)
        rank = torch.arange(1, order.shape[1] + 1, device=order.device)
        commit = commit_in_order((rank + 1) * doubt < self.factor, order, block.editable)
        return Decision(tokens, commit, confidence.float()), state
