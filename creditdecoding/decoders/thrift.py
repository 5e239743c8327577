"""Thrift: a high bar, and risk below it only where it saves a pass. This project's own rule
(docs/results.md).
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
from creditdecoding.decoders.hierarchy import best_of_runs
from creditdecoding.decoders.localleap import near
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Thrift:
    """Commits all with c >= threshold; less sure tokens near such ones, to split a run of masks, or
    to end the block; then looks ahead.

    With e = 1 - c and unit = 1 - threshold, these are written too: positions near one that passes
    with e <= leap * unit (LocalLeap's
    idea), the best of each unbroken run of masks with e <= split * unit (HierarchyDecoder's), and
    the rest of the block if its e, the
    expected number of wrong tokens, add up to at most finish * unit. In a pass that ends the block,
    tokens of the next one with
    c >= threshold are written as well. At leap = 1, split = finish = 0 and ahead = False it is
    `threshold`.
    """

    threshold: float = option(0.99, "Confidence from which on a token is written.", ge=0.0, le=1.0)
    leap: float = option(
        2.5, "1 - c allowed near a token that passes, in units of 1 - threshold.", ge=0.0
    )
    radius: int = option(4, "How many positions away is near.", ge=0)
    split: float = option(
        6.0, "1 - c allowed at the best position of a run of masks, in the same units.", ge=0.0
    )
    finish: float = option(
        10.0,
        "Expected wrong tokens at which the rest of a block is written at once, in the same units.",
        ge=0.0,
    )
    ahead: bool = option(
        True, "Write sure tokens of the next block in the pass that ends the current one."
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def capabilities(self) -> Capabilities:
        """The next block is only shown if `ahead` is set."""
        return Capabilities(looks_ahead=self.ahead)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Decide this pass."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        risk, unit, here = prediction.error_probability(tokens), 1 - self.threshold, block.current
        sure = block.editable & (confidence >= self.threshold)
        passed = sure | near(sure & here, self.radius) & (risk <= self.leap * unit)
        passed |= best_of_runs(confidence, block.masked & here, here) & (risk <= self.split * unit)
        rest = torch.where(here & ~passed, risk, 0.0).sum(-1, keepdim=True)
        commit = at_least_one(passed | (rest <= self.finish * unit), confidence, here)
        ends = (commit == here).all(-1, keepdim=True)
        return Decision(tokens, commit | sure & ~here & ends, confidence.float()), state
