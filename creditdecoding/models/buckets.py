"""Passes of a few sizes, for CUDA graphs.

torch.compile makes a graph for each kind of arguments, and gives up after some; CUDA graphs are
recorded once for each size. So passes are padded (`--cuda-graphs`): rows, positions and keys are
rounded up, there is always a mask and a position for each token, and caches are written by index.
A traffic of requests of unlike length then has as many sizes as there are buckets, and the kinds of
arguments are: with caches or without, one row or several, the whole layer or the columns that are
read.

What is added changes no answer:

- Added positions and rows query something that is visible, and nothing reads what comes out.
- Added keys are masked.
- Caches take what is added in their last column, which nothing attends to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.models.kv_cache import LayerCache

SMALLEST = 16
"""The smallest number of positions or keys of a bucket."""


def bucket(size: int) -> int:
    """The bucket of so many positions or keys: 16, 32, 48, 64, 96, 128, 192, 256, ...

    Above 64 these are powers of two and the numbers half-way, so at most a third is padding.
    """
    if size <= 4 * SMALLEST:
        return -(-size // SMALLEST) * SMALLEST
    power = row_bucket(size)
    return power * 3 // 4 if size <= power * 3 // 4 else power


def row_bucket(rows: int) -> int:
    """The bucket of so many rows: the next power of two."""
    return 1 << (rows - 1).bit_length()


class BucketPass(NamedTuple):
    """The arguments of a pass, as in `Transformer.forward`, all of the sizes of buckets.

    - `tokens`, `positions` [rows, length].
    - `mask` [rows, queries_or_1, keys].
    - `caches`: of every layer, None without.
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    caches: list[LayerCache] | None


class KeyCounts(NamedTuple):
    """Keys of a pass: the `visible` ones, their `bucket`, and how many come after these.

    Appended are the keys of positions that caches do not store: leave-one-out columns.
    """

    visible: int
    bucket: int
    appended: int


def in_buckets(
    tokens: Tensor,
    mask: Tensor | None,
    positions: Tensor | None,
    caches: list[LayerCache] | None,
) -> BucketPass:
    """The pass with added rows, positions and keys, which come after those that were there."""
    rows, length = tokens.shape
    padding = (0, bucket(length) - length, 0, row_bucket(rows) - rows)
    keys = _key_counts(length, caches)
    if positions is None:
        positions = torch.arange(length, device=tokens.device).expand(rows, -1)
    if mask is None:
        mask = tokens.new_ones(1, 1, keys.visible + keys.appended, dtype=torch.bool)
    return BucketPass(
        tokens=F.pad(tokens, padding),
        mask=_wide_mask(mask.expand(rows, -1, -1), keys, padding),
        positions=F.pad(positions, padding),
        caches=None if caches is None else _wide_caches(caches, keys, padding),
    )


def _key_counts(length: int, caches: list[LayerCache] | None) -> KeyCounts:
    """The keys of a pass over rows of this length. A cache cannot show more than it has."""
    if caches is None:
        return KeyCounts(length, bucket(length), 0)
    stored, visible = caches[0].columns.shape[1], caches[0].visible
    columns = caches[0].keys.shape[2] - 1
    return KeyCounts(visible, min(bucket(visible), columns), length - stored)


def _wide_mask(mask: Tensor, keys: KeyCounts, padding: tuple[int, int, int, int]) -> Tensor:
    """The mask of the bucket. Added rows and queries see the first key, so that they have one."""
    rows, queries, _ = mask.shape
    added = padding[1]
    visible = F.pad(mask[..., : keys.visible], (0, keys.bucket - keys.visible))
    appended = F.pad(mask[..., keys.visible :], (0, added if keys.appended else 0))
    query_padding = (0, 0, 0, added if queries > 1 else 0, *padding[2:])
    wide = F.pad(torch.cat((visible, appended), dim=-1), query_padding)
    wide[rows:, :, 0] = True
    wide[:, queries:, 0] = True
    return wide


def _wide_caches(
    caches: list[LayerCache], keys: KeyCounts, padding: tuple[int, int, int, int]
) -> list[LayerCache]:
    """The caches of more rows and positions.

    Where keys are appended, those of added positions are too; else their column is the last.
    """
    first = caches[0]
    own_padding = (0, 0, *padding[2:]) if keys.appended else padding
    slots = F.pad(first.slots, padding[2:])
    columns = F.pad(first.columns, own_padding, value=first.keys.shape[2] - 1)
    return [
        cache._replace(
            slots=slots,
            columns=columns,
            visible=keys.bucket,
            slot_range=None,
            column_range=None,
        )
        for cache in caches
    ]
