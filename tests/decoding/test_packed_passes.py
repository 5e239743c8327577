"""Rows of unlike length share a pass in one line; the plain version pads them and masks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from creditdecoding.decoding.request import Request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.models.transformer import Transformer
from tests.helpers.tiny_networks import CPU, KINDS, WORDS, network, rows_of

torch.set_num_threads(1)
LENGTHS = (3, 40, 9, 9, 150)
CACHES = {False: ("none", "prefix", "dual", "vicinity:w=3"), True: ("block", "none")}


def requests_of(model: Transformer, **options: Any) -> list[Request]:
    """Rows of unlike length; their caches in turn."""
    prompts = [[(7 * i + n) % 38 for i in range(n)] for n in LENGTHS]
    rows = rows_of(model, prompts, **{"gen_length": 20, "decoder": "fixed:k=4", **options})
    caches = CACHES[model.geometry.causal_block is not None]
    policies = [rows_of(model, prompts[:1], cache=cache)[0].cache_policy for cache in caches]
    return [
        dataclasses.replace(
            row,
            cache_policy=policies[i % len(policies)],
            cache_slot=i,
            unconditional_slot=i + len(rows),
        )
        for i, row in enumerate(rows)
    ]


def run(model: Transformer, rows: list[Request], steps: int) -> list[Any]:
    """The rows and confidences after some passes together."""
    cache = model.new_cache()
    cache.reserve(2 * len(rows), max(len(row.canvas) for row in rows))
    confidence: list[float] = []
    for _ in range(steps):
        rows, events = denoise_step(model, rows, WORDS, CPU, cache=cache)
        confidence += [value for event in events for value in event.confidence]
    return [[row.canvas.tolist() for row in rows], confidence]


@pytest.mark.parametrize("guided", [0.0, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_pass_is_the_padded_one(
    kind: str, guided: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(kind)
    rows = requests_of(model, block_length=8, cfg_scale=guided)
    widths: list[int] = []
    model.layers[0].register_forward_pre_hook(lambda _, args: widths.append(args[0].numel() // 32))
    packed = run(model, rows, 4)
    positions = sum(r.computed_positions * r.sequences for r in rows)
    assert widths[0] == positions
    monkeypatch.setattr(Transformer, "packs_rows", False)
    padded = run(model, rows, 4)
    assert widths[4] > 2 * positions, "the plain version pads"
    assert packed[0] == padded[0]
    assert packed[1] == pytest.approx(padded[1], abs=1e-4)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_a_long_row_needs_no_mask_of_its_own_size(backend: str) -> None:
    """A block-causal prompt alone: each piece of it sees no key behind its blocks."""
    model = network("blocks")
    model.attention_backend = backend
    (row,) = rows_of(model, [[i % 38 for i in range(200)]], gen_length=8)
    after, _ = denoise_step(model, [row], WORDS, CPU, cache=_cache(model, row))
    model.__class__ = type("Padding", (Transformer,), {"packs_rows": False})
    plain, _ = denoise_step(model, [row], WORDS, CPU, cache=_cache(model, row))
    assert after[0].canvas.tolist() == plain[0].canvas.tolist()


def _cache(model: Transformer, row: Request) -> Any:
    cache = model.new_cache()
    cache.reserve(1, len(row.canvas))
    return cache
