"""Committing a prefix of the ranked positions: what `factor`, `frechet`, `entropy`, `margin` and
`prophet` share; and LLaDA's schedule, which `fixed`, `less` and `tacg` follow.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from creditdecoding.decoders.base import Block, Positions, Scores


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


def scheduled_count(block: Block, steps: int | None) -> Int[Tensor, " rows"]:
    """Tokens that this step of LLaDA's uniform schedule commits: the block's masks shared out over
    `steps`, the first steps one more, and at least 1. Without `steps` always 1.
    """
    if steps is None:
        return torch.ones_like(block.initial_masks)
    one_more = block.step < block.initial_masks % steps
    return (block.initial_masks // steps + one_more).clamp(min=1)


def best_scheduled(score: Scores, block: Block, steps: int | None) -> Positions:
    """The editable positions of highest score, as many as the schedule commits in this step."""
    rank = best_first(score, block.editable).argsort(dim=-1)
    count = scheduled_count(block, steps)
    return (rank < count[:, None]) & block.editable
