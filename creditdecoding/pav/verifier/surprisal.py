"""The surprisal (negative log-likelihood) of each token of an answer under the base model.

A small network does not learn from a few thousand labels to check what the base model knows well;
surprisal shows it where to look. One pass gives it for all tokens: each written token has a mask
that sees the prompt and the tokens before it (the next-token case of block diffusion, arXiv
2503.09573), so no prefix is shown what comes later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from creditdecoding.models.transformer import Transformer
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.packing import PADDING_STEP, padded


def surprisal_positions(state: PartialAnswer) -> int:
    """Positions that the pass computes for a state: its tokens and a mask for each written one."""
    return state.length + len(state.written)


@torch.no_grad()
def token_surprisal(
    model: Transformer, states: Sequence[PartialAnswer], mask_id: int
) -> list[Tensor]:
    """-ln p of the written ids of each state [written], float32 on the CPU."""
    device = model.norm.weight.device
    width = max(map(surprisal_positions, states))
    tokens = padded([(*state.prompt, *state.written) for state in states], width, mask_id)
    positions = padded([_positions(state) for state in states], width, 0)
    allowed = _attention(states, width)
    hidden = model.hidden_states(tokens.to(device), allowed.to(device), positions.to(device))
    surprisal = []
    for row, state in enumerate(states):
        # a shifted model predicts at a token the next one
        start = len(state.prompt) - 1 if model.config.logit_shift else state.length
        logits = model.logits(hidden[row, start : start + len(state.written)]).float()
        written = torch.tensor(state.written, dtype=torch.long, device=device)
        values = logits.logsumexp(-1) - logits.gather(1, written[:, None])[:, 0]
        surprisal.append(values.clamp(min=0).cpu())
    return surprisal


def _positions(state: PartialAnswer) -> list[int]:
    """Rotary positions: of the tokens, then of the masks, which repeat those of the answer."""
    return [*range(state.length), *range(len(state.prompt), state.length)]


def _attention(states: Sequence[PartialAnswer], width: int) -> Tensor:
    """Keys that each position sees [rows, width, width]: earlier tokens and itself."""
    orders = []
    for state in states:
        count = len(state.written)
        orders.append([*[0] * len(state.prompt), *range(1, count + 1), *range(count)])
    order = padded(orders, width, PADDING_STEP)
    is_token = torch.arange(width) < torch.tensor([state.length for state in states])[:, None]
    earlier = is_token[:, None, :] & (order[:, None, :] <= order[:, :, None])
    return earlier | torch.eye(width, dtype=torch.bool)
