"""`HeadLogits.mass` as one Triton kernel: products, exclusions, maximum and sum stay on the chip.

A program takes a block of lines through some tiles of the vocabulary, one after the other, and
keeps three numbers a line: the best id so far, its logit, and the sum of exp(logit - best) over all
others. The best one is left out of the sum from the start, so that a small rest keeps its digits.
Programs that share a tile of the weight run side by side, which reads it from memory once.

Imported only where Triton is. `tests/ops/test_head_kernel.py` holds it to the plain version.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from creditdecoding.ops.head_logits import HeadLogits, Mass, completed, merged

_TILE_IDS = 128
_MOST_LINES = 128
_PROGRAMS = 1024
"""Enough programs for every multiprocessor of a large GPU to have several."""
_LARGEST_ID = tl.constexpr(2**31 - 1)


@triton.jit  # type: ignore[untyped-decorator]
def _merge(  # type: ignore[no-untyped-def]
    low_id,
    low_top,
    low_rest,
    high_id,
    high_top,
    high_rest,
):
    """`head_logits.merged` on the chip: all ids of `low` are below those of `high`.

    A set whose ids are all ruled out has the top -inf and adds nothing.
    """
    high_wins = high_top > low_top
    top = tl.where(high_wins, high_top, low_top)
    low_weight = tl.where(low_top == -float("inf"), 0.0, tl.exp(low_top - top))
    high_weight = tl.where(high_top == -float("inf"), 0.0, tl.exp(high_top - top))
    one = tl.where(high_wins, 1.0, 0.0)
    rest = low_weight * (low_rest + one) + high_weight * (high_rest + (1.0 - one))
    return tl.where(high_wins, high_id, low_id), top, rest


@triton.jit  # type: ignore[untyped-decorator]
def _tile_mass(values, ids):  # type: ignore[no-untyped-def]
    """Top-1 id, its logit and the rest of a tile [lines, ids]; the lowest of equal ids.

    A logit that is not a number is never the top, and shows in the rest.
    """
    top = tl.max(values, axis=1)
    is_top = values == top[:, None]
    best = tl.min(tl.where(is_top, ids[None, :], _LARGEST_ID), axis=1)
    counts = (ids[None, :] != best[:, None]) & (values != -float("inf"))
    others = tl.where(counts, tl.exp(values - top[:, None]), 0.0)
    return best, top, tl.sum(others, axis=1)


@triton.jit  # type: ignore[untyped-decorator]
def _as_written(sums, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums as they would be written in `dtype`, to the nearest, in float32 again.

    bfloat16 by its bits, because the interpreter cuts them off; a NaN would become another number.
    """
    if dtype == tl.bfloat16:
        bits = sums.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        return tl.where(sums == sums, rounded.to(tl.float32, bitcast=True), sums)
    return sums.to(dtype).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _product(left, right, sums, wide: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sums plus a product; in float32 throughout if `wide`."""
    if wide:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, sums, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def _ruled_out(values, kinds, has_no_stop):  # type: ignore[no-untyped-def]
    """-inf where an id must not be written; `kinds` as in `_mass_kernel`."""
    never = (kinds == 1)[None, :] | ((kinds == 2)[None, :] & has_no_stop[:, None])
    return tl.where(never, -float("inf"), values)


@triton.jit  # type: ignore[untyped-decorator]
def _sums(  # type: ignore[no-untyped-def]
    line_start,
    line_exists,
    id_start,
    id_exists,
    size,
    depth: tl.constexpr,
    wide: tl.constexpr,
):
    """Products [lines, ids] of hidden states and weights, summed in float32.

    `line_start` [lines] and `id_start` [ids]: where their `size` numbers begin. `depth` of these
    are read at a time.
    """
    sums = tl.zeros((line_start.shape[0], id_start.shape[0]), tl.float32)
    for start in range(0, size, depth):
        column = start + tl.arange(0, depth)
        inside = column < size
        left_inside = line_exists[:, None] & inside[None, :]
        left = tl.load(line_start[:, None] + column[None, :], mask=left_inside, other=0.0)
        right_inside = id_exists[None, :] & inside[:, None]
        right = tl.load(id_start[None, :] + column[:, None], mask=right_inside, other=0.0)
        sums = _product(left, right, sums, wide)
    return sums


@triton.jit  # type: ignore[untyped-decorator]
def _mass_kernel(  # type: ignore[no-untyped-def]
    hidden,
    weight,
    id_kinds,
    stop_lines,
    out_ids,
    out_tops,
    out_rests,
    lines,
    vocab,
    size,
    hidden_stride,
    weight_stride,
    tiles,
    block_lines: tl.constexpr,
    tile_ids: tl.constexpr,
    depth: tl.constexpr,
    wide: tl.constexpr,
):
    """Statistics of a block of lines over `tiles` tiles of ids, one part of the vocabulary.

    - `hidden` [lines, size] and `weight` [vocab, size], rows `*_stride` numbers apart.
    - `id_kinds` [vocab]: 1 for ids with logit -inf, 2 for those that have it at `stop_lines`.
    - `stop_lines` [lines]: not 0 where ids of kind 2 have logit -inf.
    - `out_*` [parts, lines]: top-1 id, its logit and the rest of each part.
    - `wide`: products in float32 throughout.
    """
    line = tl.program_id(0) * block_lines + tl.arange(0, block_lines)
    line_exists = line < lines
    line_start = hidden + line.to(tl.int64) * hidden_stride
    has_no_stop = tl.load(stop_lines + line, mask=line_exists, other=0) != 0
    best = tl.zeros((block_lines,), tl.int32)
    top = tl.full((block_lines,), -float("inf"), tl.float32)
    rest = tl.zeros((block_lines,), tl.float32)
    for tile in range(tiles):
        ids = (tl.program_id(1) * tiles + tile) * tile_ids + tl.arange(0, tile_ids)
        id_exists = ids < vocab
        id_start = weight + ids.to(tl.int64) * weight_stride
        sums = _sums(
            line_start,
            line_exists,
            id_start,
            id_exists,
            size,
            depth,
            wide,
        )
        kinds = tl.load(id_kinds + ids, mask=id_exists, other=1)
        values = _ruled_out(_as_written(sums, hidden.dtype.element_ty), kinds, has_no_stop)
        tile_best, tile_top, tile_rest = _tile_mass(values, ids)
        best, top, rest = _merge(
            best,
            top,
            rest,
            tile_best,
            tile_top,
            tile_rest,
        )
    target = tl.program_id(1).to(tl.int64) * lines + line
    tl.store(out_ids + target, best, mask=line_exists)
    tl.store(out_tops + target, top, mask=line_exists)
    tl.store(out_rests + target, rest, mask=line_exists)


class _Plan(NamedTuple):
    """How the work is divided: `blocks` of `block` lines, `parts` of `tiles` tiles of ids."""

    block: int
    blocks: int
    tiles: int
    parts: int


def _plan(lines: int, vocab: int) -> _Plan:
    """A division that fills a large GPU, also if few lines are read."""
    block = min(_MOST_LINES, max(16, triton.next_power_of_2(lines)))
    blocks = triton.cdiv(lines, block)
    all_tiles = triton.cdiv(vocab, _TILE_IDS)
    most_parts = min(all_tiles, max(1, _PROGRAMS // blocks))
    tiles = triton.cdiv(all_tiles, most_parts)
    return _Plan(block, blocks, tiles, triton.cdiv(all_tiles, tiles))


def head_mass(logits: HeadLogits) -> Mass:
    """`HeadLogits.mass`, by the kernel. The parts of the vocabulary are merged by torch."""
    hidden = logits.hidden.contiguous()
    weight = logits.weight
    lines, vocab = logits.shape
    device = hidden.device
    plan = _plan(lines, vocab)
    ids = torch.empty(plan.parts, lines, dtype=torch.int32, device=device)
    tops = torch.empty(plan.parts, lines, device=device)
    rests = torch.empty_like(tops)
    # The interpreter, on a CPU, has no products of bfloat16.
    wide = hidden.dtype == torch.float32 or device.type == "cpu"
    _mass_kernel[(plan.blocks, plan.parts)](
        hidden,
        weight,
        _id_kinds(logits),
        _stop_lines(logits),
        ids,
        tops,
        rests,
        lines,
        vocab,
        hidden.shape[1],
        hidden.stride(0),
        weight.stride(0),
        plan.tiles,
        block_lines=plan.block,
        tile_ids=_TILE_IDS,
        depth=32 if wide else 64,
        wide=wide,
        num_warps=8 if plan.block == _MOST_LINES else 4,
    )
    parts = zip(ids.long().clamp_(max=vocab - 1), tops, rests.double())
    return completed(functools.reduce(merged, parts))


def _id_kinds(logits: HeadLogits) -> Tensor:
    """`id_kinds` of the kernel, int8 [vocab]. Filled one by one: an index by a list would be
    uploaded, and waited for.
    """
    kinds = torch.zeros(logits.shape[1], dtype=torch.int8, device=logits.device)
    for token in logits.stop_ids:
        kinds[token].fill_(2)
    for token in logits.banned:
        kinds[token].fill_(1)
    return kinds


def _stop_lines(logits: HeadLogits) -> Tensor:
    """`stop_lines` of the kernel, int8 [lines]."""
    stops_at = logits.stops_at
    if stops_at is None:
        stops_at = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    return stops_at.to(torch.int8)
