"""WINO, wide-in narrow-out: draft many, take back what the rest does not bear out (arXiv
2507.18578).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders._order import best_first
from creditdecoding.decoders.base import (
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    at_least_one,
)
from creditdecoding.options import check_fields, option

_SHARE, _LEAST, _MOST = (7, 10), 5, 20


@dataclass(frozen=True)
class Wino:
    """Commits all with c > threshold, a capped number, and takes back tokens whose probability
    without themselves is < threshold_back.

    At most 0.7 of the masks left are committed, but 5 may be in any case and never more than 20. A
    step that commits one token takes
    none back, any other fewer than the step before committed. So with a commits and r revokes, r of
    step t is below a of step t - 1,
    and after T steps at least T tokens stand: a block of L masks ends within L passes.
    """

    capabilities = Capabilities(can_remask=True, leave_one_out=True)

    threshold: float = option(0.6, "Confidence above which a mask is written.", ge=0.0, le=1.0)
    threshold_back: float = option(
        0.9,
        "Probability, read where the token is not seen, below which a written token is taken back.",
        ge=0.0,
        le=1.0,
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Tokens that the step before committed, [rows]."""
        return {"accepted": torch.zeros(rows, dtype=torch.long, device=device)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Draft, and verify what earlier steps drafted."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        cap = (block.masked.sum(-1) * _SHARE[0] // _SHARE[1]).clamp(_LEAST, _MOST)
        passed = (confidence > self.threshold) & (_rank(confidence, block.editable) < cap[:, None])
        commit = at_least_one(passed, confidence, block.editable)
        accepted = commit.sum(-1)
        chance = prediction.leave_one_out
        doubtful = (chance < self.threshold_back) & ~block.masked
        room = torch.where(accepted > 1, state["accepted"] - 1, 0)
        revoke = doubtful & (_rank(-chance, doubtful) < room[:, None])
        return Decision(tokens, commit, confidence.float(), remask=revoke), {"accepted": accepted}


def _rank(score: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Rank of each column by falling score, from 0, the first of equals first; of those not
    `among`, the last ones.
    """
    return best_first(score, among).argsort(dim=-1)
