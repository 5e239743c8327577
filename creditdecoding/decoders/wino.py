"""WINO, wide-in narrow-out: write many tokens, take back those that the others do not support
(arXiv 2507.18578).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first
from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    Sweep,
    at_least_one,
)
from creditdecoding.options import option

# The authors' caps on what a step commits: 7/10 of the masks left, but 5 in any case, at most 20.
_SHARE = (7, 10)
_LEAST = 5
_MOST = 20


@dataclass(frozen=True)
class Wino(BaseDecoder):
    """Commits all with c > threshold, a capped number, and takes back tokens whose probability
    without themselves is < threshold_back.

    At most 0.7 of the masks left are committed, but 5 may be in any case and never more than 20. A
    step that commits one token takes none back, any other fewer than the step before committed. So
    with a commits and r remasked tokens, r of step t is below a of step t - 1, and after T steps at
    least T tokens stand: a block of L masks ends within L passes.
    """

    threshold: float = option(0.6, "Confidence above which a mask is written.", ge=0.0, le=1.0)
    threshold_back: float = option(
        0.9,
        "Probability, read where the token is not seen, below which a written token is taken back.",
        ge=0.0,
        le=1.0,
    )

    capabilities = Capabilities(can_remask=True, leave_one_out=True)
    sweep = Sweep("threshold", (0.6, 0.8, 0.9, 0.95, 0.99, 0.999))

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Tokens that the step before committed, [rows]."""
        return {"committed": torch.zeros(rows, dtype=torch.long, device=device)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Write new tokens and check those of earlier steps."""
        tokens, confidence = prediction.choose()
        cap = (block.masked.sum(-1) * _SHARE[0] // _SHARE[1]).clamp(_LEAST, _MOST)
        passed = (confidence > self.threshold) & (_rank(confidence, block.editable) < cap[:, None])
        commit = at_least_one(passed, confidence, block.editable)
        committed = commit.sum(-1)
        support = prediction.leave_one_out
        doubtful = (support < self.threshold_back) & ~block.masked
        allowed = torch.where(committed > 1, state["committed"] - 1, 0)
        remask = doubtful & (_rank(-support, doubtful) < allowed[:, None])
        decision = Decision(tokens, commit, confidence.float(), remask=remask)
        return decision, {"committed": committed}


def _rank(score: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Rank of each column by falling score, from 0, the first of equals first; columns outside
    `among` come last.
    """
    return best_first(score, among).argsort(dim=-1)
