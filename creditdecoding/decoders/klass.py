"""KL-adaptive stability sampling (KLASS, arXiv 2511.05664): confident and unchanged. Dense, because
it compares whole distributions.

The divergence is KL(now || before), over the raw distributions. Its state is the logits of the step
before, [rows, length, vocab] in the model's own dtype: exact, and as large as the logits
themselves. It starts over with each block; the authors' history continues from block to block, so
that theirs can commit a step earlier there. They fall back to the top positions of a schedule; this
to one, which is their schedule with as many steps as tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Capabilities,
    Decision,
    Prediction,
    Scores,
    State,
    Sweep,
    at_least_one,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Klass(BaseDecoder):
    """Commits all whose confidence is above the threshold and whose distribution moved by less than
    kl in each of the last n steps.

    A row that has none commits its most confident position.
    """

    threshold: float = option(
        0.9, "Confidence above which a stable position is committed.", ge=0.0, le=1.0
    )
    kl: float = option(
        0.01, "Divergence in nats between two steps below which a position is stable.", gt=0.0
    )
    n: int = option(2, "Consecutive steps for which it must be stable.", ge=1)

    capabilities = Capabilities(dense_state=True)
    sweep = Sweep("threshold", (0.6, 0.8, 0.9, 0.95, 0.99))

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """Nothing seen yet. The logits have width 0 and dtype bool, which takes no memory and gives
        way to any other dtype.
        """
        return {
            "seen": torch.zeros(rows, length, dtype=torch.bool, device=device),
            "stable_steps": torch.zeros(rows, length, dtype=torch.long, device=device),
            "lse": torch.zeros(rows, length, device=device),
            "logits": torch.zeros(rows, length, 0, dtype=torch.bool, device=device),
        }

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare with the step before, count the stable steps, keep this step's logits."""
        tokens, confidence = prediction.choose()
        stable = divergence(prediction, state) < self.kl
        stable_steps = torch.where(stable, state["stable_steps"] + 1, 0)
        ready = (stable_steps >= self.n) & (confidence > self.threshold) & block.editable
        fallback = at_least_one(ready, confidence, block.editable)
        commit = torch.where(ready.any(-1, keepdim=True), ready, fallback)
        outside = ~prediction.masked
        logits = prediction.logits[prediction.logit_row]
        after = {
            "seen": prediction.masked,
            "stable_steps": stable_steps,
            "lse": prediction.lse.masked_fill(outside, 0.0),
            "logits": logits.masked_fill_(outside[..., None], 0.0),
        }
        return Decision(tokens, commit, confidence.float()), after


def divergence(prediction: Prediction, state: State) -> Scores:
    """KL(now || before) in nats, a few positions at a time; infinite where there is no before."""
    divergences = torch.full_like(prediction.lse, float("inf"))
    if not state["logits"].shape[-1]:  # no request has a step before
        return divergences
    for part in prediction.position_chunks():
        logits = prediction.logits[prediction.logit_row[part]].float()
        now = logits - prediction.lse[part][:, None]
        before = state["logits"][part].float() - state["lse"][part][:, None]
        terms = now.exp() * (now - before)  # NaN where the probability is 0, which adds nothing
        divergences[part] = terms.nan_to_num_(nan=0.0).sum(-1)
    return divergences.masked_fill(~(prediction.masked & state["seen"]), torch.inf)
