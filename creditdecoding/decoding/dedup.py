"""Rows of a pass that show the network the same are computed once: answers drawn from one prompt,
until they part.

A row's leader is computed in its place where both compute all that they see, see the same ids, and
both keep it or neither does: what one
reads and stores is what the other would. So it is in first passes over a block under most caches,
and at every pass without one. Guided rows
and rows with shadows have no leaders.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from creditdecoding.decoding.cache_policy import NoCache
from creditdecoding.decoding.request import ForwardFn, Request
from creditdecoding.models.kv_cache import KVCache


def representatives(rows: Sequence[Request]) -> list[int] | None:
    """For each row the index of the one that is computed for it, the first of its kind or itself;
    None where that is itself for all.
    """
    first: dict[tuple[bool, bytes], int] = {}
    found = []
    for i, row in enumerate(rows):
        seen = row.block_position.length
        alone = row.guided or row.leave_one_out_positions or row.computed_span != (0, seen)
        key = (isinstance(row.cache_policy, NoCache), row.canvas[:seen].numpy().tobytes())
        found.append(i if alone else first.setdefault(key, i))
    return None if found == [*range(len(rows))] else found


def unique_positions(
    leads: Sequence[int], at_row: Tensor, position: Tensor
) -> tuple[list[int], Tensor, Tensor]:
    """Which rows lead; the different places [2, m] asked for by (row, position) [n], their rows
    counted among those; the place of each [n].
    """
    runs = sorted(set(leads))
    place = torch.zeros(len(leads), dtype=torch.long)
    place[runs] = torch.arange(len(runs))
    wanted, back = torch.stack((place[list(leads)][at_row], position)).unique(
        dim=1, return_inverse=True
    )
    return runs, wanted, back


def shared(
    ask: ForwardFn,
    rows: Sequence[Request],
    leads: Sequence[int],
    at_row: Tensor,
    position: Tensor,
    store: KVCache | None,
) -> Tensor:
    """Logits at (row, position) [n] from a pass over the leaders alone, each place computed once;
    what they stored is stored for all.
    """
    runs, wanted, back = unique_positions(leads, at_row, position)
    flat = ask([rows[i] for i in runs], wanted[0], wanted[1])
    kept = [
        (rows[lead].cache_slot, row.cache_slot)
        for lead, row in zip(leads, rows)
        if row is not rows[lead] and not isinstance(row.cache_policy, NoCache)
    ]
    if store is not None and kept:
        store.copy_slots(*map(list, zip(*kept)))
    return flat[back.to(flat.device)]
