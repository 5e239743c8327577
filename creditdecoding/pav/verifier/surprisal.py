"""How unlikely the base model finds each token of an answer, given what stands before it: what a
verifier is shown beside the tokens.

A small network does not learn from a few thousand labels to check what the base model knows well;
its surprise says where to look. One pass
gives it for all tokens: each has a mask beside it that sees the prompt and the tokens before (the
next-token case of block diffusion, arXiv
2503.09573), and so no prefix is shown what comes later.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from creditdecoding.models.transformer import Transformer
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.packing import BEHIND


def length(state: PartialAnswer) -> int:
    """Positions that the pass runs for a state."""
    return len(state.prompt) + 2 * len(state.written)


@torch.no_grad()
def token_surprisal(
    model: Transformer, states: Sequence[PartialAnswer], mask_id: int
) -> list[Tensor]:
    """-ln p of the written ids of each state [written], float32 on the CPU."""
    widest = max(map(length, states))
    shape = (len(states), widest)
    tokens, positions = torch.full(shape, mask_id), torch.zeros(shape, dtype=torch.long)
    order, clean = torch.full(shape, BEHIND), torch.zeros(shape, dtype=torch.bool)
    for row, state in enumerate(states):
        start, count = len(state.prompt), len(state.written)
        tokens[row, : start + count] = torch.tensor([*state.prompt, *state.written])
        positions[row, : start + 2 * count] = torch.tensor(
            [*range(start + count), *range(start, start + count)]
        )
        order[row, : start + 2 * count] = torch.tensor(
            [*[0] * start, *range(1, count + 1), *range(count)]
        )
        clean[row, : start + count] = True
    allowed = (clean[:, None, :] & (order[:, None, :] <= order[:, :, None])) | torch.eye(
        widest, dtype=torch.bool
    )
    device = model.norm.weight.device
    hidden = model.hidden_states(tokens.to(device), allowed.to(device), positions.to(device))
    found = []
    for row, state in enumerate(states):
        start, count = len(state.prompt), len(state.written)
        first = (
            start - 1 if model.config.logit_shift else start + count
        )  # a shifted model says at a token what the next one is
        logits = model.logits(hidden[row, first : first + count]).float()
        written = torch.tensor(state.written, dtype=torch.long, device=device)
        found.append(
            (logits.logsumexp(-1) - logits.gather(1, written[:, None])[:, 0]).clamp(min=0).cpu()
        )
    return found
