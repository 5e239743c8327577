"""Sparse, exact trace credit: what `credit`, `credit_adaptive` and the controls `credit_blind` and
`credit_first` share.

Only ids that were top-1 at some step of the block hold credit, so each position keeps a few (id,
credit) slots. A slot is never evicted; when a position meets a new id and has none free, every
position gets more. Slot ids are stored plus one, so that zero means empty. All in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from creditdecoding.decoders.base import (
    Block,
    Decision,
    Positions,
    Prediction,
    Scores,
    State,
    TokenIds,
    at_least_one,
)
from creditdecoding.ops.transfer import is_host

_GROWTH = 2


def empty_slots(rows: int, length: int, device: torch.device) -> State:
    """No credit anywhere."""
    ids = torch.zeros(rows, length, _GROWTH, dtype=torch.long, device=device)
    return {"slot_ids": ids, "credit": torch.zeros(rows, length, _GROWTH, device=device)}


def accumulate(
    state: State,
    ids: TokenIds,
    increment: Scores,
    decay: Float[Tensor, "#rows"],
    masked: Positions,
) -> State:
    """Eq. 6: credit decays everywhere, then the current top-1 id of each masked position gains its
    increment.
    """
    slots, credit = state["slot_ids"], state["credit"]
    stored = (ids + 1)[..., None]
    holds = slots == stored
    missing = masked & ~holds.any(-1)
    if not is_host(slots.device) or missing.numpy().any():
        slots, credit = _with_slots(slots, credit, stored, missing)
        holds = slots == stored
    gain = torch.where(holds & masked[..., None], increment[..., None], 0.0)
    return {"slot_ids": slots, "credit": credit * decay[:, None, None] + gain}


def _with_slots(
    slots: Int[Tensor, "rows length k"],
    credit: Float[Tensor, "rows length k"],
    stored: Int[Tensor, "rows length 1"],
    missing: Positions,
) -> tuple[Tensor, Tensor]:
    """Slots and credit, with a slot for the `stored` id of each position where it is `missing`."""
    if _must_grow(slots, missing):
        slots, credit = F.pad(slots, (0, _GROWTH)), F.pad(credit, (0, _GROWTH))
    free = (slots == 0).to(torch.uint8).argmax(-1, keepdim=True)
    slots = torch.where(missing[..., None], slots.scatter(2, free, stored), slots)
    return slots, credit


def _must_grow(slots: Int[Tensor, "rows length k"], missing: Positions) -> bool:
    """Whether a position has no slot for its new id. Checking on a GPU would force a
    synchronisation, so there the slots always grow.
    """
    return not is_host(slots.device) or bool((missing & (slots != 0).all(-1)).any())


def credit_step(
    prediction: Prediction,
    block: Block,
    state: State,
    threshold: float,
    alpha: Float[Tensor, "#rows"],
    beta: Float[Tensor, "#rows"],
    gamma: float,
) -> tuple[Decision, State]:
    """Accumulate (Eq. 6), then fuse, compare and commit."""
    state = accumulate(state, prediction.ids, prediction.probability.pow(gamma), beta, block.masked)
    return fuse(prediction, block, state, threshold, alpha), state


def fuse(
    prediction: Prediction,
    block: Block,
    state: State,
    threshold: float,
    alpha: Float[Tensor, "#rows"],
) -> Decision:
    """Add alpha log(1 + credit) to the logits of the slots' ids (Eq. 7), commit what passes the
    threshold.

    The normaliser of the fused confidence is exact: lse' = lse + log(1 + sum_k p_k ((1 + C_k)^alpha
    - 1)).
    """
    ids = (state["slot_ids"] - 1).clamp(min=0)
    boost = alpha[:, None, None] * torch.log1p(state["credit"])  # 0 where a slot is empty
    tokens, confidence = prediction.choose(ids, boost)
    commit = at_least_one(confidence >= threshold, confidence, block.editable)
    credit = (state["credit"] * (ids == tokens[..., None])).sum(-1)
    return Decision(tokens, commit, confidence.float(), credit)
