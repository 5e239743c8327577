"""Thrift: a high bar, and risk below it only where it saves a pass. This project's own rule (docs/results.md)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.config import check_fields, option
from creditdecoding.decoders._order import best_first
from creditdecoding.decoders.base import Block, Decision, Prediction, State, at_least_one


@dataclass(frozen=True)
class Thrift:
    """Commits all with c >= threshold; less sure tokens only to end the block, or in a pass that would write one; then looks ahead.

    With e = 1 - c, the expected number of wrong tokens, and unit = 1 - threshold: the rest of the block is written at once if its e
    add up to at most finish * unit. Where at most one token passes, the best of the rest are written while their e add up to at
    most stalled * unit. In a pass that ends the block, tokens of the next one with c >= threshold are written too. At finish = stalled = 0
    and ahead = False it is `threshold`.
    """

    threshold: float = option(0.99, "Confidence from which on a token is written.", ge=0.0, le=1.0)
    finish: float = option(10.0, "Expected wrong tokens, in units of 1 - threshold, at which the rest of a block is written at once.", ge=0.0)
    stalled: float = option(5.0, "The same for what a pass may add that would write one token.", ge=0.0)
    ahead: bool = option(True, "Write sure tokens of the next block in the pass that ends the current one.")

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """None is needed."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Decide this pass."""
        tokens, logit = prediction.pick()
        confidence = (logit - prediction.lse).exp()
        unit, here = 1 - self.threshold, block.current
        unsure = here & (confidence < self.threshold)
        risk = torch.where(unsure, 1 - confidence, 0.0)
        order = best_first(confidence, unsure)
        cheap = torch.zeros_like(here).scatter(1, order, risk.gather(1, order).cumsum(-1) <= self.stalled * unit)
        stalls = (here & ~unsure).sum(-1, keepdim=True) <= 1
        ends = risk.sum(-1, keepdim=True) <= self.finish * unit
        commit = at_least_one(~unsure | stalls & cheap | ends, confidence, here)
        ahead = block.editable & ~here & (confidence >= self.threshold) & (commit == here).all(-1, keepdim=True)
        return Decision(tokens, commit | ahead, confidence), state
