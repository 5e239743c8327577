"""Committing a prefix of the ranked positions: what `factor`, `frechet`, `entropy`, `margin` and
`prophet` share.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from creditdecoding.decoders.base import Positions, Scores


def best_first(score: Scores, editable: Positions) -> Int[Tensor, "rows length"]:
    """Columns of each row by falling score, the first of equals first, those that may not be
    written last.
    """
    floor = torch.finfo(score.dtype).min
    score = torch.where(editable, score.clamp(min=floor), float("-inf"))
    return score.argsort(dim=-1, descending=True, stable=True)


def commit_in_order(
    passed: Bool[Tensor, "#rows length"],
    order: Int[Tensor, "rows length"],
    editable: Positions,
) -> Positions:
    """What to commit, by column, from `passed` by rank; the first rank is always committed."""
    first = torch.arange(order.shape[1], device=order.device) == 0
    passed = (passed | first).expand(order.shape)
    return torch.zeros_like(editable).scatter(1, order, passed) & editable
