"""The likeliest token after some ids were boosted, and its confidence, from a few logits."""

from __future__ import annotations

import torch
from torch import Tensor

_NO_ID = torch.iinfo(torch.long).max
"""Above every id."""


def boosted_choice(
    candidates: Tensor, logits: Tensor, boost: Tensor, mass: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The likeliest candidate after the boost, the lowest id of equals, and its probability
    [rows, length].

    - `candidates`, `logits` [rows, length, 1 + k]: the top-1 id first, then the boosted ids.
    - `boost` [rows, length, k]: what is added to their logits, 0 or more.
    - `mass`: the best logit, and exp(logit - best) summed over all other ids, in float64.

    An id with boost 0 is no likelier than the top-1 id, and has no lower id if it is as likely.
    """
    score = torch.cat((logits[..., :1], logits[..., 1:] + boost), dim=-1)
    index = lowest_of_the_best(score, candidates)
    tokens = candidates.gather(-1, index)
    peak, rest = mass
    below = logits.to(rest.dtype) - peak[..., None]
    added = boost.to(rest.dtype)
    boosted_ids = candidates[..., 1:]
    own = below.gather(-1, index)[..., 0] + (added * (boosted_ids == tokens)).sum(-1)
    total = 1.0 + rest + (below[..., 1:].exp() * added.expm1()).sum(-1)
    return tokens[..., 0], own.exp() / total


def lowest_of_the_best(score: Tensor, ids: Tensor) -> Tensor:
    """Which entry of the last axis has the best score, of equals the one with the lowest id."""
    best = score == score.amax(-1, keepdim=True)
    return torch.where(best, ids, _NO_ID).argmin(-1, keepdim=True)
