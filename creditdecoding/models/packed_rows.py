"""Rows of unlike length in one line: nothing is padded, and each row attends to what it has.

All of the network but attention works on single positions, so the rows of a pass may lie one after
another in a line [1, positions]. Attention runs for each row, over the keys that the row sees;
neighbours of one shape share a call. The plain version is a padded pass with a mask.

Rows of 3, 2 and 2 positions, where the last two are alike, make two calls:

    line    a a a b b c c
    calls   1 row of 3 queries at 0; 2 rows of 2 queries at 3

A row of a block-causal model that spans several blocks is attended from in pieces: a piece sees
its own blocks and those before, so that half of the products of a long prompt are never computed,
and no mask of the prompt's length squared is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from creditdecoding.models.attention import masked_attention

Positions = NDArray[np.int64]
MIN_QUERIES = 32
"""Positions of a block-causal row are attended from in pieces of at least this many, each of which
sees no key behind its own blocks.
"""


@dataclass(frozen=True)
class RowSpan:
    """A row of a packed pass.

    - `positions` [queries]: of the text, those that query, in ascending order.
    - `visible`: how many leading positions of its text the row sees.
    - `key`: its slot in the caches, or without caches where in the line its text begins.
    """

    positions: Positions
    visible: int
    key: int


@dataclass(frozen=True)
class AttentionCall:
    """Attention of neighbours of one shape.

    - `query`: where in the line the first row begins; `rows`: how many follow each other.
    - `count`: queries of a row; `visible`: keys of a row.
    - `key`: slot of the first row, or where in the line its keys begin; those of the others follow.
    - `mask` [count, visible]: which key a query sees, of a single row; None if all see all.
    """

    query: int
    rows: int
    count: int
    key: int
    visible: int
    mask: Tensor | None

    def joined(self, other: AttentionCall, key_step: int) -> AttentionCall | None:
        """Both in one call, if the other is the next row of the same shape."""
        is_same = (self.count, self.visible) == (other.count, other.visible)
        is_next = other.key == self.key + self.rows * key_step
        if not is_same or not is_next or self.mask is not None or other.mask is not None:
            return None
        return AttentionCall(
            self.query, self.rows + other.rows, self.count, self.key, self.visible, None
        )


@dataclass(frozen=True)
class PackedRows:
    """Who attends to what in a packed pass.

    `calls` are in the order of the line. `reads`: the same for the positions whose logits are read,
    which are all that the last layer computes.
    """

    calls: tuple[AttentionCall, ...]
    is_cached: bool
    reads: PackedRows | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        """Attention of q [1, heads, positions, dim].

        k and v are those of the line, or buffers [slots, kv_heads, columns, dim] of the caches.
        """
        mixed = torch.zeros_like(q)
        for call in self.calls:
            end = call.query + call.rows * call.count
            own = _rows_of(q, call.query, call.rows, call.count)
            keys, values = self._keys(k, call), self._keys(v, call)
            rows = masked_attention(own, keys, values, call.mask, backend)
            mixed[0, :, call.query : end] = rows.transpose(0, 1).flatten(1, 2)
        return mixed

    def _keys(self, x: Tensor, call: AttentionCall) -> Tensor:
        """The keys or values of a call, [rows, kv_heads, visible, dim]; nothing is copied."""
        if self.is_cached:
            return x[call.key : call.key + call.rows, :, : call.visible]
        return _rows_of(x, call.key, call.rows, call.visible)


def _rows_of(line: Tensor, start: int, rows: int, count: int) -> Tensor:
    """Part of a line [1, heads, positions, dim] as [rows, heads, count, dim]."""
    part = line[0, :, start : start + rows * count]
    by_row: Tensor = part.unflatten(1, (rows, count)).transpose(0, 1)
    return by_row


def pack_rows(
    rows: Sequence[RowSpan],
    reads: Sequence[Positions],
    causal_block: int | None,
    is_cached: bool,
) -> PackedRows:
    """The attention of `rows` that lie in a line in this order. `reads`: the positions of each row
    that the last layer is run for.
    """
    read_rows = [RowSpan(own, row.visible, row.key) for own, row in zip(reads, rows)]
    of_reads = PackedRows(_calls(read_rows, causal_block, is_cached), is_cached)
    return PackedRows(_calls(rows, causal_block, is_cached), is_cached, of_reads)


def _calls(
    rows: Sequence[RowSpan], causal_block: int | None, is_cached: bool
) -> tuple[AttentionCall, ...]:
    """The calls for these rows, joined where neighbours have one shape."""
    calls: list[AttentionCall] = []
    query = 0
    for row in rows:
        for call in _pieces(row, query, causal_block):
            joined = None
            if calls:
                joined = calls[-1].joined(call, 1 if is_cached else call.visible)
            if joined is None:
                calls.append(call)
            else:
                calls[-1] = joined
        query += len(row.positions)
    return tuple(calls)


def _pieces(row: RowSpan, query: int, causal_block: int | None) -> Iterator[AttentionCall]:
    """A row's calls: one, or for block-causal models one for every few blocks."""
    if not len(row.positions):
        return
    if causal_block is None:
        yield AttentionCall(query, 1, len(row.positions), row.key, row.visible, None)
        return
    width = causal_block * -(-MIN_QUERIES // causal_block)
    cuts = np.flatnonzero(np.diff(row.positions // width)) + 1
    for positions in np.split(row.positions, cuts):
        blocks = positions // causal_block
        visible = min(row.visible, int(blocks[-1] + 1) * causal_block)
        mask = None
        if blocks[0] != blocks[-1]:
            key_blocks = np.arange(visible) // causal_block
            mask = torch.from_numpy(blocks[:, None] >= key_blocks)
        yield AttentionCall(query, 1, len(positions), row.key, visible, mask)
        query += len(positions)
