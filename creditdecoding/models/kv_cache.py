"""Keys and values kept between passes: preallocated storage, written in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.ops.transfer import upload


@dataclass(frozen=True)
class ModelGeometry:
    """What a decoding loop must know of a network.

    `causal_block` and `logit_shift` are as in `ModelConfig`. A network that `supports_kv_cache`
    takes the positions of its tokens, an attention mask and layer caches. `fused_head` is as in
    `EngineConfig`, "off" for a network that offers no hidden states; `line_bytes`: what the logits
    of a position take.
    """

    causal_block: int | None = None
    logit_shift: bool = False
    supports_kv_cache: bool = False
    fused_head: str = "off"
    line_bytes: int = 0


class LayerCache(NamedTuple):
    """One layer's part of a pass.

    `keys` and `values` are buffers [slots, kv_heads, columns + 1, dim] whose last column takes what
    padding computes. `slots` [rows] are those of the rows in the pass, `slot_range` the same as a
    slice if they are consecutive, `columns` [rows, computed] where each computed position is
    stored, `column_range` the same as a slice if it is the same range in all rows. The first
    `visible` columns are attended to.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor
    columns: Tensor
    visible: int
    slot_range: slice | None
    column_range: slice | None

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store [rows, kv_heads, computed, dim] and return all visible keys and values.

        Positions beyond the columns (those of leave-one-out rows) are not stored but appended to
        what is returned.
        """
        stored = self.columns.shape[1]
        self._store(k[:, :, :stored], v[:, :, :stored])
        slots = self.slots if self.slot_range is None else self.slot_range  # a slice copies nothing
        keys = self.keys[slots, :, : self.visible]
        values = self.values[slots, :, : self.visible]
        if k.shape[2] > stored:
            keys = torch.cat((keys, k[:, :, stored:]), dim=2)
            values = torch.cat((values, v[:, :, stored:]), dim=2)
        return keys, values

    def _store(self, k: Tensor, v: Tensor) -> None:
        """Write [rows, kv_heads, computed, dim]: a plain copy where rows and columns are ranges.

        A compiled graph writes by index: ends of a range would be constants of it.
        """
        by_index = self.slot_range is None or self.column_range is None
        if not by_index and not torch.compiler.is_compiling():
            self.keys[self.slot_range, :, self.column_range] = k
            self.values[self.slot_range, :, self.column_range] = v
            return
        rows = self.slots[:, None]
        self.keys[rows, :, self.columns] = k.transpose(1, 2)
        self.values[rows, :, self.columns] = v.transpose(1, 2)


class PackedLayerCache(NamedTuple):
    """One layer's part of a packed pass.

    - `keys`, `values`: buffers as in `LayerCache`.
    - `slots` [positions]: the request that a position of the line belongs to.
    - `columns` [positions]: where it is stored there.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor
    columns: Tensor

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store [1, kv_heads, positions, dim] and return the whole buffers.

        The calls of `PackedRows` take from them what each row sees, as views.
        """
        self.keys[self.slots, :, self.columns] = k[0].transpose(0, 1)
        self.values[self.slots, :, self.columns] = v[0].transpose(0, 1)
        return self.keys, self.values


class KVCache:
    """Preallocated keys and values of every layer. Each running request owns a slot.

    The addresses of `static` buffers are told to torch.compile: CUDA graphs may write to them.
    """

    def __init__(
        self,
        num_layers: int,
        kv_heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
        static: bool = False,
    ) -> None:
        self.num_layers = num_layers
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.device = device
        self.dtype = dtype
        self.static = static
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.slots = 0
        self.columns = 0
        self._last: tuple[object, list[LayerCache]] | None = None

    def reserve(self, slots: int, columns: int) -> None:
        """Make room for at least `slots` requests of `columns` positions; contents stay."""
        if slots > self.slots or columns > self.columns:
            self.resize(max(slots, self.slots), max(columns, self.columns))

    def resize(self, slots: int, columns: int) -> None:
        """Make room for exactly `slots` requests of `columns` positions; contents that fit stay."""
        kept_slots = min(slots, self.slots)
        kept_columns = min(columns, self.columns)
        # If memory runs out half-way, the buffers have at least this size.
        self.slots, self.columns = kept_slots, kept_columns
        self._last = None
        shape = (slots, self.kv_heads, columns + 1, self.head_dim)
        for layer in range(self.num_layers):
            keys = torch.zeros(shape, device=self.device, dtype=self.dtype)
            values = torch.zeros(shape, device=self.device, dtype=self.dtype)
            if layer == len(self.buffers):
                self.buffers.append((keys, values))
            old_keys, old_values = self.buffers[layer]
            keys[:kept_slots, :, :kept_columns] = old_keys[:kept_slots, :, :kept_columns]
            values[:kept_slots, :, :kept_columns] = old_values[:kept_slots, :, :kept_columns]
            self.buffers[layer] = (keys, values)
            if self.static:
                torch._dynamo.mark_static_address(keys)
                torch._dynamo.mark_static_address(values)
        self.slots, self.columns = slots, columns

    def copy_slots(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Copy the slots `old` to the slots `new`, in order, in every layer.

        All are read before any is written. The host does not wait.
        """
        sources, targets = upload([np.array(old), np.array(new)], self.device)
        for buffer in self._tensors():
            buffer[targets] = buffer[sources]

    def read_columns(self, slot: int, start: int, end: int) -> Tensor:
        """A copy of a slot's columns from `start` to `end`.

        [layers, 2, kv_heads, columns, dim], keys before values, with the cache's device and dtype.
        """
        pairs = [torch.stack([x[slot, :, start:end] for x in pair]) for pair in self.buffers]
        return torch.stack(pairs)

    def write_columns(self, slot: int, start: int, values: Tensor) -> None:
        """Write what `read_columns` returned to a slot, from column `start` on."""
        for pair, stored in zip(self.buffers, values):
            for buffer, own in zip(pair, stored):
                buffer[slot, :, start : start + own.shape[1]] = own

    def clear_slot(self, slot: int) -> None:
        """Zero a slot: a NaN would leak into the next request even through the mask."""
        for buffer in self._tensors():
            buffer[slot] = 0

    def layer_caches(self, slots: Sequence[int], columns: Tensor, visible: int) -> list[LayerCache]:
        """Every layer's part of a pass over the requests in `slots`.

        - `slots`: one for each row of the pass.
        - `columns` [rows, computed]: where each position is stored, on the host; -1 for padding,
          which goes to the column behind the last.
        - `visible`: how many leading columns are attended to.

        Passes over the same positions, as those of a block are, share what is returned.
        """
        own = columns.cpu().numpy()
        key = (tuple(slots), visible, own.shape, own.tobytes())
        if self._last is None or self._last[0] != key:
            self._last = key, self._layer_caches(slots, own, visible)
        return self._last[1]

    def _layer_caches(
        self, slots: Sequence[int], own: NDArray[np.int64], visible: int
    ) -> list[LayerCache]:
        stored = np.where(own < 0, self.columns, own)
        slot_index, column_index = upload([np.array(slots), stored], self.device)
        slot_range = _as_range(np.array(slots))
        is_same = bool((own == own[:1]).all())
        column_range = _as_range(own[0]) if is_same else None
        return [
            LayerCache(
                keys=keys,
                values=values,
                slots=slot_index,
                columns=column_index,
                visible=visible,
                slot_range=slot_range,
                column_range=column_range,
            )
            for keys, values in self.buffers
        ]

    def packed_layer_caches(
        self, slots: NDArray[np.int64], columns: Tensor
    ) -> list[PackedLayerCache]:
        """Every layer's part of a packed pass: slot and column of each position of the line."""
        (slot_index,) = upload([slots], self.device)
        return [PackedLayerCache(*pair, slot_index, columns) for pair in self.buffers]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(buffer.nbytes for buffer in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        for pair in self.buffers:
            yield from pair


def _as_range(values: NDArray[np.int64]) -> slice | None:
    """Consecutive numbers from 0 on as a slice; None for others."""
    if not len(values) or values[0] < 0 or (np.diff(values) != 1).any():
        return None
    return slice(int(values[0]), int(values[0]) + len(values))
