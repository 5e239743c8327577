"""Mutual-stability sampling (LESS, arXiv 2606.16908): the same token for some passes, confident,
and a distribution that no longer moves. Walks the logits a second time for the likeliest ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from creditdecoding.decoders._order import best_scheduled
from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Prediction,
    Scores,
    State,
    Sweep,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Less(BaseDecoder):
    """Commits positions whose top-1 is that of each of the last `passes` passes, whose confidence
    is at least the threshold, and whose coarse Jensen-Shannon divergence from the last pass is at
    most `divergence`; if there are none, the most confident ones by LLaDA's schedule.

    The coarse distribution is the `kept` likeliest ids, and one bucket for all others.
    """

    threshold: float = option(
        0.75, "Confidence from which a stable position is committed.", ge=0.0, le=1.0
    )
    divergence: float = option(
        0.04, "Largest Jensen-Shannon divergence in nats from the last pass.", ge=0.0
    )
    passes: int = option(2, "Passes before this one that must have had the same top-1 id.", ge=1)
    kept: int = option(8, "Likeliest ids that are compared one by one.", ge=1)
    steps: int | None = option(
        None, "Steps a block of the schedule that is followed if none is stable; 1 a step.", ge=1
    )

    sweep = Sweep("threshold", (0.5, 0.6, 0.75, 0.9, 0.95, 0.99))

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No pass seen. Ids are stored plus one, so that zero means none."""
        kept = min(self.kept, vocab)
        last_ids = torch.zeros(rows, length, self.passes, dtype=torch.long, device=device)
        top_ids = torch.zeros(rows, length, kept, dtype=torch.long, device=device)
        top_probs = torch.zeros(rows, length, kept, device=device)
        return {"last_ids": last_ids, "top_ids": top_ids, "top_probs": top_probs}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare with the passes before, then keep this one."""
        tokens, confidence = prediction.choose()
        top_ids, top_logits = prediction.top(state["top_ids"].shape[-1])
        top_probs = prediction.probabilities_of_logits(top_logits)
        moved = coarse_divergence(top_ids + 1, top_probs, state["top_ids"], state["top_probs"])
        latest = (prediction.ids + 1)[..., None]
        same_id = (state["last_ids"] == latest).all(-1)
        stable = same_id & (moved <= self.divergence)
        ready = stable & (confidence >= self.threshold) & block.editable
        fallback = best_scheduled(confidence, block, self.steps)
        commit = torch.where(ready.any(-1, keepdim=True), ready, fallback)
        after = {
            "last_ids": torch.cat((state["last_ids"][..., 1:], latest), dim=-1),
            "top_ids": top_ids + 1,
            "top_probs": top_probs,
        }
        return Decision(tokens, commit, confidence.float()), after


def coarse_divergence(
    ids: Int[Tensor, "rows length k"],
    probs: Float[Tensor, "rows length k"],
    ids_before: Int[Tensor, "rows length k"],
    probs_before: Float[Tensor, "rows length k"],
) -> Scores:
    """Jensen-Shannon divergence in nats between two lists of likely ids, each with one bucket for
    the rest. An id of only one list has mass 0 in the other. 1 where there is no list before.
    """
    same: Bool[Tensor, "rows length k k"] = ids[..., :, None] == ids_before[..., None, :]
    matched_before = (same * probs_before[..., None, :]).sum(-1)
    shared = _divergence_terms(probs, matched_before).sum(-1)
    vanished = probs_before.masked_fill(same.any(-2), 0.0)
    only_before = _divergence_terms(torch.zeros_like(vanished), vanished).sum(-1)
    rest = (1.0 - probs.sum(-1)).clamp(min=0.0)
    rest_before = (1.0 - probs_before.sum(-1)).clamp(min=0.0)
    divergence = shared + only_before + _divergence_terms(rest, rest_before)
    return divergence.masked_fill((ids_before == 0).all(-1), 1.0)


def _divergence_terms(p: Tensor, q: Tensor) -> Tensor:
    """(p log(p / m) + q log(q / m)) / 2 with m = (p + q) / 2; 0 where both are 0."""
    mean = ((p + q) / 2).clamp(min=torch.finfo(p.dtype).tiny)
    return (torch.xlogy(p, p / mean) + torch.xlogy(q, q / mean)) / 2
