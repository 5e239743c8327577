"""Frechet profile rule (Fast-dLLM++, arXiv 2606.02955): as `factor`, with the sum of the error
probabilities in place of n times the largest.

All of n tokens are right with probability at least 1 - sum e_(i) (Frechet's bound); any other
choice has at most e_(n). With equal error probabilities the rule is `factor` with factor = 1 -
margin. 0.25 is the default of the authors' main tables; their code has 0.
"""

from __future__ import annotations

from dataclasses import dataclass

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
class Frechet(BaseDecoder):
    """Commits the n most confident tokens, n the largest with 1 - (sum of their error
    probabilities) - (error probability of the n-th) > margin, and always the best one.
    """

    margin: float = option(
        0.25,
        "By how much the bound on the tokens' probability must exceed that of any other choice.",
        ge=0.0,
        le=1.0,
    )

    sweep = Sweep("margin", (0.25, 0.7, 0.9, 0.95, 0.98, 0.99))

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Sort by confidence and sum the error probabilities up to each rank."""
        tokens, confidence = prediction.choose()
        order = best_first(confidence, block.editable)
        error = prediction.error_probability(tokens).gather(-1, order)
        passed = 1.0 - error.cumsum(-1) - error > self.margin
        return Decision(
            tokens, commit_in_order(passed, order, block.editable), confidence.float()
        ), state
