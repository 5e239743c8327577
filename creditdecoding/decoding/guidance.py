"""Classifier-free guidance: away from the prediction without the prompt (arXiv 2207.12598; LLaDA's
`cfg_scale`).

    logits = unconditional + (cfg_scale + 1) * (conditional - unconditional)

The unconditional logits come from a second row of the same pass: the same canvas with everything
given replaced by masks. It has its own cache slot, so guidance works with every rule and cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from creditdecoding.decoding.request import LogitReads, Request
from creditdecoding.ops.transfer import upload


def unconditional(request: Request, mask_id: int) -> Request:
    """The same request with everything given masked; what the rule wrote stays."""
    canvas = request.canvas.masked_fill(request.read_only, mask_id)
    return replace(request, canvas=canvas, cache_slot=request.unconditional_slot)


def add_unconditional(
    requests: Sequence[Request], reads: LogitReads, mask_id: int
) -> tuple[list[Request], LogitReads, list[int]]:
    """The requests followed by an unconditional one for each guided request.

    Returns them, `reads` followed by those of the unconditional requests, and the entries of
    `reads` that these belong to.
    """
    rows = list(requests)
    row_of: dict[int, int] = {}
    for i, request in enumerate(requests):
        if request.guided:
            row_of[i] = len(rows)
            rows.append(unconditional(request, mask_id))
    if not row_of:
        return rows, reads, []
    entries = [entry for entry, i in enumerate(reads.row.tolist()) if i in row_of]
    added = reads.select(entries)
    added_rows = [row_of[i] for i in added.row.tolist()]
    added = added._replace(row=torch.tensor(added_rows, dtype=torch.long))
    return rows, LogitReads(*map(torch.cat, zip(reads, added))), entries


def guide(
    logits: Tensor, requests: Sequence[Request], reads: LogitReads, entries: Sequence[int]
) -> Tensor:
    """Logits of `reads`, of which `entries` are guided by the logits that follow those of `reads`.

    - `logits` [n + guided, vocab]: those of the n `reads`, then the unconditional ones.
    - `entries`: from `add_unconditional`.

    Each scale is filled in where it holds, as a number of the host, so that no list of scales is
    copied to the device.
    Ids that the model itself rules out (-inf) stay so. Guided logits are at least float32.
    """
    if not entries:
        return logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    guided, unconditional = logits[: len(reads.row)], logits[len(reads.row) :]
    scales = np.array([request.config.cfg_scale for request in requests])
    scale_of_line = scales[reads.row.numpy()[entries]]
    values = np.unique(scale_of_line)
    numbers = [np.array(entries), *(scale_of_line == value for value in values)]
    index, *lines = upload(numbers, logits.device)
    scale = logits.new_zeros(len(entries), 1)
    for value, own in zip(values.tolist(), lines):
        scale.masked_fill_(own[:, None], value)
    conditional = guided[index]
    mixed = unconditional + (scale + 1) * (conditional - unconditional)
    guided[index] = mixed.masked_fill(conditional == -torch.inf, -torch.inf)
    return guided
