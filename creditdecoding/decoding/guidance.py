"""Classifier-free guidance: away from what the model predicts without seeing the prompt (arXiv
2207.12598; LLaDA's `cfg_scale`).

    logits = blind + (cfg_scale + 1) * (seen - blind)

`blind` comes from the same canvas with everything given replaced by masks: the row's twin. Both run
in one batched pass, each with
its own place in a cache, so that guidance goes with every rule and every cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from creditdecoding.decoding.request import ForwardFn, Request


def guided(
    ask: ForwardFn, rows: Sequence[Request], mask_id: int, at_row: Tensor, position: Tensor
) -> Tensor:
    """Logits at (row, position) [n], those of guided rows mixed with their twins'; a single pass
    over rows and twins.
    """
    having = torch.tensor([row.guided for row in rows])
    mine = having[at_row]
    if not bool(mine.any()):
        return ask(rows, at_row, position)
    twins = [blind(row, mask_id) for row in rows if row.guided]
    twin = len(rows) + having.cumsum(0) - 1
    both = ask(
        [*rows, *twins],
        torch.cat((at_row, twin[at_row[mine]])),
        torch.cat((position, position[mine])),
    )
    both = both.to(torch.promote_types(both.dtype, torch.float32))
    logits, unseen = both[: len(at_row)], both[len(at_row) :]
    scale = torch.tensor([row.config.cfg_scale for row in rows])[at_row[mine]].to(both)
    mine = mine.to(both.device)
    logits[mine] = mix(logits[mine], unseen, scale[:, None])
    return logits


def blind(row: Request, mask_id: int) -> Request:
    """The row's twin: what was given is masked, what was written stays."""
    return replace(
        row,
        canvas=row.canvas.masked_fill(row.read_only, mask_id),
        cache_slot=row.unconditional_slot,
    )


def mix(seen: Tensor, unseen: Tensor, scale: Tensor) -> Tensor:
    """Guided logits. What the model itself forbids stays forbidden."""
    return (unseen + (scale + 1) * (seen - unseen)).masked_fill(seen == -torch.inf, -torch.inf)
