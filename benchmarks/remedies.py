"""Two remedies and what they replaced: the last layer only where logits are read, and caches that
copy ranges.

What was before is computed from the same weights and buffers: the last layer at every position, and
storing by index, which compiled passes still do. Processor time of one thread, medians of
interleaved pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.caches import network
from creditdecoding.lm import load
from creditdecoding.models.kv_cache import LayerCache
from creditdecoding.models.transformer import Transformer

LENGTH = 160
"""Positions of a row."""
BLOCK = 32
"""Positions that are read, or stored: the last ones."""


class Remedy(NamedTuple):
    """What was measured, the median of now / before, and the milliseconds before."""

    case: str
    ratio: float
    before_ms: float


def compare(
    now: Callable[[], object], before: Callable[[], object], pairs: int
) -> tuple[float, float]:
    """The median ratio of interleaved pairs, and the median milliseconds of `before`."""
    ratios: list[float] = []
    before_ms: list[float] = []
    now(), before()
    for _ in range(pairs):
        began = time.process_time()
        before()
        between = time.process_time()
        now()
        ratios.append((time.process_time() - between) / (between - began))
        before_ms.append(1000 * (between - began))
    return statistics.median(ratios), statistics.median(before_ms)


def last_layer(model: Transformer, name: str, pairs: int) -> Remedy:
    """A pass that reads the last block, over one whose last layer runs everywhere."""
    tokens = torch.arange(LENGTH)[None] + 3
    reads = torch.zeros(BLOCK, dtype=torch.long), torch.arange(LENGTH - BLOCK, LENGTH)
    ratio, ms = compare(
        lambda: model(tokens, reads),
        lambda: model.read(model.hidden_states(tokens)[reads]),
        pairs,
    )
    return Remedy(f"last layer at {BLOCK} of {LENGTH} positions, {name}: a pass", ratio, ms)


def stored_ranges(model: Transformer, name: str, pairs: int) -> Iterator[Remedy]:
    """Storing a block in the caches, and a pass with them, over the same by index."""
    cache = model.new_cache()
    cache.reserve(1, LENGTH)
    positions = torch.arange(LENGTH - BLOCK, LENGTH)[None]
    by_range = cache.layer_caches([0], positions, LENGTH)
    by_index = [layer._replace(slot_range=None, column_range=None) for layer in by_range]
    heads, size = model.config.num_kv_heads, model.config.head_dim
    states = torch.randn(1, heads, BLOCK, size)

    def store(layers: list[LayerCache]) -> None:
        for layer in layers:
            layer.update(states, states)

    def one_pass(layers: list[LayerCache]) -> object:
        reads = torch.zeros(BLOCK, dtype=torch.long), torch.arange(BLOCK)
        return model(positions + 3, reads, positions=positions, caches=layers)

    for what, run in (("storing", store), ("a pass", one_pass)):
        ratio, ms = compare(partial(run, by_range), partial(run, by_index), pairs)
        case = f"caches copy ranges, {BLOCK} of {LENGTH} positions, {name}: {what}"
        yield Remedy(case, ratio, ms)


@torch.inference_mode()
def remedies(pairs: int) -> list[Remedy]:
    """All figures, for the first embedded model and a random network of 20M."""
    embedded = load("pocket-v1", device="cpu", dtype="float32").model
    assert isinstance(embedded, Transformer)
    figures = []
    for name, model in (("2M", embedded), ("20M", network(None))):
        figures.append(last_layer(model, name, pairs))
        figures += stored_ranges(model, name, pairs)
    return figures
