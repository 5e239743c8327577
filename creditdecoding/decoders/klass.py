"""KL-adaptive stability sampling (KLASS, arXiv 2511.05664): sure and unchanged; dense, as it
compares whole distributions.

The divergence is KL(now || before), over the raw distributions. Its state is the logits of the step
before, [rows, length, vocab] in
the model's own dtype: exact, and as large as the logits themselves. It begins anew with each block;
the authors' history goes on
from block to block, so that theirs can commit a step earlier there. They fall back to the top
positions of a schedule; this to
one, which is their schedule with as many steps as tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.decoders.base import (
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    at_least_one,
)
from creditdecoding.ops.vocab_stats import row_chunks
from creditdecoding.options import check_fields, option


@dataclass(frozen=True)
class Klass:
    """Commits all whose confidence is above the threshold and whose distribution moved by less than
    kl in each of the last n steps.

    Where a row has none, its most confident position, and only there.
    """

    capabilities = Capabilities(dense_state=True)

    threshold: float = option(
        0.9, "Confidence above which a stable position is committed.", ge=0.0, le=1.0
    )
    kl: float = option(
        0.01, "Divergence in nats between two steps below which a position is stable.", gt=0.0
    )
    n: int = option(2, "Steps in a row for which it must be.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Nothing seen. The logits begin without width and dtype bool, which takes no room and
        gives way to any other dtype.
        """
        return {
            "seen": torch.zeros(rows, length, dtype=torch.bool, device=device),
            "run": torch.zeros(rows, length, dtype=torch.long, device=device),
            "lse": torch.zeros(rows, length, device=device),
            "logits": torch.zeros(rows, length, 0, dtype=torch.bool, device=device),
        }

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare with the step before, count the calm steps, keep this step's logits."""
        tokens, _ = prediction.pick()
        confidence = prediction.confidence(tokens)
        run = torch.where(divergence(prediction, state) < self.kl, state["run"] + 1, 0)
        ready = (run >= self.n) & (confidence > self.threshold) & block.editable
        commit = torch.where(
            ready.any(-1, keepdim=True), ready, at_least_one(ready, confidence, block.editable)
        )
        outside = ~prediction.masked
        kept = {
            "seen": prediction.masked,
            "run": run,
            "lse": prediction.lse.masked_fill(outside, 0.0),
            "logits": prediction.logits[prediction.logit_row].masked_fill_(outside[..., None], 0.0),
        }
        return Decision(tokens, commit, confidence.float()), kept


def divergence(prediction: Prediction, state: State) -> Float[Tensor, "rows length"]:
    """KL(now || before) in nats, a few positions at a time; infinite where there is no before."""
    found = torch.full_like(prediction.lse, float("inf"))
    row, column = (prediction.masked & state["seen"]).nonzero(as_tuple=True)
    width = max((part.stop - part.start for part in row_chunks(prediction.logits)), default=1)
    for start in range(0, len(row), width):
        at = (row[start : start + width], column[start : start + width])
        now = prediction.logits[prediction.logit_row[at]].float() - prediction.lse[at][:, None]
        before = state["logits"][at].float() - state["lse"][at][:, None]
        found[at] = (
            (now.exp() * (now - before)).nan_to_num_(nan=0.0).sum(-1)
        )  # a probability of 0 adds nothing
    return found
