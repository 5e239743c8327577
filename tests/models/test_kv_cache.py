"""Writes into the cache: copies of ranges do what writes by index do."""

from __future__ import annotations

import torch

from creditdecoding.models.kv_cache import KVCache

CPU = torch.device("cpu")


def test_a_range_is_stored_as_by_index() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.arange(3, 8).expand(2, -1)
    k, v = torch.randn(2, 2, 4, 5, 6, generator=generator)
    stored = []
    for by_index in (False, True):
        cache = KVCache(1, 4, 6, CPU, torch.float32)
        cache.reserve(4, 10)
        (layer,) = cache.layer_caches([1, 2], columns, 8)
        assert layer.slot_range == slice(1, 3) and layer.column_range == slice(3, 8)
        if by_index:
            layer = layer._replace(slot_range=None, column_range=None)
        stored.append((*layer.update(k, v), *cache.buffers[0]))
    for ours, plain in zip(*stored):
        assert torch.equal(ours, plain)


def test_gaps_and_padding_are_no_range() -> None:
    cache = KVCache(1, 1, 2, CPU, torch.float32)
    cache.reserve(4, 10)
    ranges = [
        (layer.slot_range, layer.column_range)
        for slots, columns in (
            ([0, 2], [[0, 1], [0, 1]]),
            ([0, 1], [[0, 1], [1, 2]]),
            ([0, 1], [[0, 1], [0, -1]]),
            ([1], [[2, 4]]),
        )
        for layer in cache.layer_caches(slots, torch.tensor(columns), 8)
    ]
    assert ranges == [
        (None, slice(0, 2)),
        (slice(0, 2), None),
        (slice(0, 2), None),
        (slice(1, 2), None),
    ]


def test_passes_over_the_same_positions_share_their_layers_until_the_buffers_change() -> None:
    cache = KVCache(1, 1, 2, torch.device("cpu"), torch.float32)
    cache.reserve(2, 8)
    columns = torch.arange(2, 5)[None]
    layers = cache.layer_caches([1], columns, 8)
    assert cache.layer_caches([1], columns.clone(), 8) is layers
    for others in (([0], columns, 8), ([1], columns + 1, 8), ([1], columns, 7)):
        assert cache.layer_caches(*others) is not layers
    layers = cache.layer_caches([1], columns, 8)
    cache.reserve(3, 8)
    assert cache.layer_caches([1], columns, 8)[0].keys is cache.buffers[0][0]
