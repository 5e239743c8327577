"""Keys and values kept between passes: preallocated storage, written in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModelGeometry:
    """What a loop must know of a network's geometry.

    `causal_block`, `logit_shift` as in `ModelConfig`; `keeps`: the network can keep keys and values
    between passes, and is told the
    positions of its tokens and which of them see which.
    """

    causal_block: int | None = None
    logit_shift: bool = False
    supports_kv_cache: bool = False


class LayerCache(NamedTuple):
    """One layer's part of a pass: buffers [slots, kv_heads, columns + 1, dim], rows' slots, and the
    column of every computed position.

    The last column takes what padding computes and is never attended to; `seen` columns are. `run`:
    the slots, if they follow each other.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor
    columns: Tensor
    visible: int
    slot_range: slice | None

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write [rows, kv_heads, computed, dim] in place and return all that is seen, [rows,
        kv_heads, seen, dim].

        What is given beyond the columns (shadows) is not written; it comes back behind what is
        seen.
        """
        count = self.columns.shape[1]
        self.keys[self.slots[:, None], :, self.columns] = k[:, :, :count].transpose(1, 2)
        self.values[self.slots[:, None], :, self.columns] = v[:, :, :count].transpose(1, 2)
        at = self.slots if self.slot_range is None else self.slot_range  # a run is a view, no copy
        keys, values = self.keys[at, :, : self.visible], self.values[at, :, : self.visible]
        if k.shape[2] == count:
            return keys, values
        return torch.cat((keys, k[:, :, count:]), dim=2), torch.cat(
            (values, v[:, :, count:]), dim=2
        )


class KVCache:
    """Preallocated keys and values of every layer; a row owns a slot while it runs. The one mutable
    thing between passes.
    """

    def __init__(
        self,
        num_layers: int,
        kv_heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.layers, self.kv_heads, self.dim, self.device, self.dtype = (
            num_layers,
            kv_heads,
            head_dim,
            device,
            dtype,
        )
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.slots, self.columns = 0, 0

    def reserve(self, slots: int, columns: int) -> None:
        """Make room for `slots` rows of `columns` positions; what is stored stays."""
        if slots <= self.slots and columns <= self.columns:
            return
        self.resize(max(slots, self.slots), max(columns, self.columns))

    def resize(self, slots: int, columns: int) -> None:
        """Hold `slots` rows of `columns` positions, no more; of what is stored, that part stays."""
        rows, width = self.slots, self.columns = (
            min(slots, self.slots),
            min(columns, self.columns),
        )  # holds if memory runs out half-way
        for layer in range(self.layers):
            pair = [
                torch.zeros(
                    slots,
                    self.kv_heads,
                    columns + 1,
                    self.dim,
                    device=self.device,
                    dtype=self.dtype,
                )
                for _ in range(2)
            ]
            if layer == len(self.buffers):
                self.buffers.append((pair[0], pair[1]))
            for new, old in zip(pair, self.buffers[layer]):
                new[:rows, :, :width] = old[:rows, :, :width]
            self.buffers[layer] = (pair[0], pair[1])
        self.slots, self.columns = slots, columns

    def copy_slots(self, old: int | list[int], new: int | list[int]) -> None:
        """Copy what slot `old` holds to slot `new`, or each of several to its own."""
        for pair in self.buffers:
            for x in pair:
                x[new] = x[old]

    def clear_slot(self, slot: int) -> None:
        """Forget what a slot holds: numbers that are none must not meet the next row, whose mask
        would not keep them out.
        """
        for pair in self.buffers:
            for x in pair:
                x[slot] = 0

    def layer_caches(self, slots: list[int], columns: Tensor, seen: int) -> list[LayerCache]:
        """Every layer's part of a pass over rows in `slots`; `columns` [rows, computed], -1 where a
        position is padding.
        """
        at = torch.tensor(slots, device=self.device)
        where = torch.where(columns < 0, self.columns, columns).to(self.device)
        run = slice(slots[0], slots[0] + len(slots))
        follow = slots == list(range(run.start, run.stop))
        return [
            LayerCache(keys, values, at, where, seen, run if follow else None)
            for keys, values in self.buffers
        ]

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.buffers)
