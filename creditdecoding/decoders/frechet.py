"""Frechet profile rule (Fast-dLLM++, arXiv 2606.02955): as `factor`, with the sum of the doubts in
place of n times the largest.

All of n tokens are right with probability at least 1 - sum e_(i) (Frechet's bound); any other
choice has at most e_(n). With equal
doubts the rule is `factor` with factor = 1 - margin. 0.25 is the default of the authors' main
tables; their code has 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first, commit_in_order
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Frechet:
    """Commits the n most confident tokens, n the largest with 1 - (sum of their doubts) - (doubt of
    the n-th) > margin; always the best.
    """

    margin: float = option(
        0.25,
        "By how much the certified chance must exceed that of the best other choice.",
        ge=0.0,
        le=1.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Sort by confidence, sum the doubts up to each rank."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        order = best_first(confidence, block.editable)
        doubt = prediction.error_probability(tokens).gather(-1, order)
        commit = commit_in_order(
            1.0 - doubt.cumsum(-1) - doubt > self.margin, order, block.editable
        )
        return Decision(tokens, commit, confidence.float()), state
