"""Top-k and top-p: which ids may be drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def restrict(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """-inf outside the k likeliest ids and outside the smallest set that holds probability p (the
    lower id first among equals).
    """
    if top_k is None and top_p is None:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k is not None:
        keep[:, top_k:] = False
    if top_p is not None:
        probability = ordered.masked_fill(~keep, float("-inf")).softmax(-1)
        keep &= probability.cumsum(-1) - probability < top_p
    kept = ordered.masked_fill(~keep, float("-inf"))
    return torch.full_like(logits, float("-inf")).scatter(1, order, kept)
