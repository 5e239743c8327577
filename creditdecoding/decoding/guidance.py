"""Classifier-free guidance: away from the prediction without the prompt (arXiv 2207.12598; LLaDA's
`cfg_scale`).

    logits = unconditional + (cfg_scale + 1) * (conditional - unconditional)

The unconditional logits come from a second row of the same pass: the same canvas with everything
given replaced by masks. It has its own cache slot, so guidance works with every rule and cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from creditdecoding.decoding.request import LogitReads, Request


def unconditional(request: Request, mask_id: int) -> Request:
    """The same request with everything given masked; what the rule wrote stays."""
    canvas = request.canvas.masked_fill(request.read_only, mask_id)
    return replace(request, canvas=canvas, cache_slot=request.unconditional_slot)


def guided_entries(requests: Sequence[Request], reads: LogitReads) -> list[int]:
    """Which of the `reads` belong to guided requests."""
    if not any(request.guided for request in requests):
        return []
    return [entry for entry, row in enumerate(reads.row.tolist()) if requests[row].guided]


def unconditional_reads(
    requests: Sequence[Request], reads: LogitReads, entries: Sequence[int]
) -> LogitReads:
    """These entries of `reads` in the rows of the unconditional requests, which come last."""
    guided = torch.tensor([request.guided for request in requests])
    row = len(requests) + guided.cumsum(0) - 1
    selected = reads.select(entries)
    return selected._replace(row=row[selected.row])


def guide(
    logits: Tensor, requests: Sequence[Request], reads: LogitReads, entries: Sequence[int]
) -> Tensor:
    """Logits of `reads`, of which `entries` are guided by the logits that follow those of `reads`.

    Ids that the model itself rules out (-inf) stay so. At least float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    conditional, unconditional = logits[: len(reads.row)], logits[len(reads.row) :]
    scale = torch.tensor([request.config.cfg_scale for request in requests])
    scale = scale[reads.select(entries).row, None].to(logits)
    index = torch.tensor(entries, device=logits.device)
    seen = conditional[index]
    mixed = unconditional + (scale + 1) * (seen - unconditional)
    conditional[index] = mixed.masked_fill(seen == -torch.inf, -torch.inf)
    return conditional
