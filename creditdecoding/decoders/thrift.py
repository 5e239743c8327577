"""Thrift: a high threshold, and risk below it only where it saves a pass. This project's own rule
(results in docs/research/results.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from creditdecoding.decoders.base import (
    THRESHOLD_SWEEP,
    BaseDecoder,
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    at_least_one,
)
from creditdecoding.decoders.hierarchy import best_of_runs
from creditdecoding.decoders.localleap import within
from creditdecoding.options import option


@dataclass(frozen=True)
class Thrift(BaseDecoder):
    """Commits all with c >= threshold; less sure tokens near such ones, to split a run of masks, or
    to end the block; then looks ahead.

    With e = 1 - c and unit = 1 - threshold, these are written too: positions near one that passes
    with e <= near * unit (LocalLeap's idea), the best of each unbroken run of masks with e <= gap *
    unit (HierarchyDecoder's), and the rest of the block if its e, the expected number of wrong
    tokens, add up to at most tail * unit. In a pass that ends the block, tokens of the next one
    with c >= threshold are written as well. At near = 1, gap = tail = 0 and ahead = False it is
    `threshold`.
    """

    threshold: float = option(0.99, "Confidence from which on a token is written.", ge=0.0, le=1.0)
    near: float = option(
        2.5, "1 - c allowed near a token that passes, in units of 1 - threshold.", ge=0.0
    )
    radius: int = option(4, "How many positions away is near.", ge=0)
    gap: float = option(
        6.0, "1 - c allowed at the best position of a run of masks, in the same units.", ge=0.0
    )
    tail: float = option(
        10.0,
        "Expected wrong tokens at which the rest of a block is written at once, in the same units.",
        ge=0.0,
    )
    ahead: bool = option(
        True, "Write sure tokens of the next block in the pass that ends the current one."
    )

    sweep = THRESHOLD_SWEEP
    old_knobs: ClassVar[Mapping[str, str]] = {"leap": "near", "split": "gap", "finish": "tail"}

    @property
    def capabilities(self) -> Capabilities:
        """The next block is only shown if `ahead` is set."""
        return Capabilities(looks_ahead=self.ahead)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Decide this pass."""
        tokens, confidence = prediction.choose()
        error = prediction.error_probability(tokens)
        unit = 1 - self.threshold
        current = block.current
        sure = block.editable & (confidence >= self.threshold)
        near_sure = within(self.radius, sure & current) & (error <= self.near * unit)
        splits = best_of_runs(confidence, block.masked & current, current)
        passed = sure | near_sure | (splits & (error <= self.gap * unit))
        expected_errors = torch.where(current & ~passed, error, 0.0).sum(-1, keepdim=True)
        finishes = expected_errors <= self.tail * unit
        commit = at_least_one(passed | finishes, confidence, current)
        ends_block = (commit == current).all(-1, keepdim=True)
        ahead = sure & ~current & ends_block
        return Decision(tokens, commit | ahead, confidence.float()), state
