"""Requests with identical visible tokens and the same caching behaviour share one row of a pass.

This saves work for several answers drawn from one prompt, until they differ: at the first pass over
a block under most caches, at every pass without a cache. Guided requests and those with
leave-one-out columns are never shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from creditdecoding.decoding.request import LogitReads, Request
from creditdecoding.models.kv_cache import KVCache


def representatives(requests: Sequence[Request]) -> list[int] | None:
    """For each request the index of the first one with the same row; None if no row is shared."""
    first: dict[tuple[bool, bytes], int] = {}
    indices = []
    for i, request in enumerate(requests):
        visible = request.block_position.length
        is_partial = request.computed_span != (0, visible)
        if is_partial or request.guided or request.leave_one_out_positions:
            indices.append(i)
        else:
            key = (request.uses_cache, request.canvas[:visible].numpy().tobytes())
            indices.append(first.setdefault(key, i))
    return None if indices == list(range(len(requests))) else indices


def unique_reads(
    representative: Sequence[int], reads: LogitReads
) -> tuple[list[int], LogitReads, Tensor]:
    """The requests to compute, what to read from them, each once, and which of these [n] serves
    each of `reads`.
    """
    computed = sorted(set(representative))
    row_of = {request: row for row, request in enumerate(computed)}
    rows = torch.tensor([row_of[i] for i in representative])
    keys = torch.stack((rows[reads.row], reads.position, reads.leave_one_out.long()))
    unique, inverse = keys.unique(dim=1, return_inverse=True)
    return computed, LogitReads(unique[0], unique[1], unique[2].bool()), inverse


def copy_cached(cache: KVCache, requests: Sequence[Request], representative: Sequence[int]) -> None:
    """Copy what the representatives stored to the slots of the requests that they stand for."""
    slots = [
        (requests[i].cache_slot, request.cache_slot)
        for i, request in zip(representative, requests)
        if request is not requests[i] and request.uses_cache
    ]
    if slots:
        cache.copy_slots([source for source, _ in slots], [target for _, target in slots])
