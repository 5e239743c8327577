"""Further walks over logits, written or not: terms of the entropy, likeliest ids, drawn ids.

Logits come tile by tile, each tile with its first id; written ones in one tile.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from creditdecoding.ops.head_logits import Logits, line_chunks, tiles_of
from creditdecoding.ops.noise import gumbel_noise
from creditdecoding.ops.truncation import restrict


def weighted_gaps(logits: Logits, peaks: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The sum of exp(-gap) * gap over the ids of each line, where gap is how far a logit is below
    the line's peak.
    """
    gaps = torch.zeros_like(peaks)
    for part in line_chunks(logits):
        for _, tile in tiles_of(logits, part):
            below = tile - peaks[part, None]
            gaps[part] -= (below.exp() * below).nan_to_num_(0.0).sum(-1)
    return gaps


def top_of(logits: Logits, k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest logits of each line in float32, the largest first, and their ids.

    Which of equal logits comes first is not defined.
    """
    values = torch.zeros(len(logits), k, device=logits.device)
    ids = torch.zeros(len(logits), k, dtype=torch.long, device=logits.device)
    for part in line_chunks(logits):
        tops = (_tile_top(k, *tile) for tile in tiles_of(logits, part))
        values[part], ids[part] = functools.reduce(functools.partial(_larger, k=k), tops)
    return values, ids


def _tile_top(k: int, start: int, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logits of a tile, at most k, and their ids."""
    values, index = logits.topk(min(k, logits.shape[1]), dim=-1)
    return values, index + start


def _larger(
    low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """The k largest of two lists of logits and ids."""
    values, ids = (torch.cat(parts, dim=-1) for parts in zip(low, high))
    top, order = values.topk(min(k, values.shape[1]), dim=-1)
    return top, ids.gather(1, order)


class Draw(NamedTuple):
    """How ids are drawn at some positions.

    - `keys` of the noise, each [n, 1]: seed, position, step.
    - `peak` [n, 1]: the best logit, boost included.
    - `temperature` above 0; `top_k`, `top_p`: which ids may be drawn.
    - `boosted`, `boost` [n, k]: ids, and what is added to their logits, if anything is.
    """

    keys: tuple[Tensor, ...]
    peak: Tensor
    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    boosted: Tensor | None = None
    boost: Tensor | None = None

    @property
    def restricted(self) -> bool:
        """Whether some ids are never drawn; then their logits must come in one tile."""
        return self.top_k is not None or self.top_p is not None

    def scores(self, start: int, logits: Tensor) -> Tensor:
        """Scores of a tile in float64; an id is drawn where they are largest."""
        if self.boosted is not None and self.boost is not None:
            _add_boost(logits, self.boosted - start, self.boost)
        # With a best logit of 0 no temperature, however small, makes an infinity of it.
        logits = (logits - self.peak) / self.temperature
        logits = restrict(logits, self.top_k, self.top_p)
        ids = torch.arange(start, start + logits.shape[1], device=logits.device)
        return logits + gumbel_noise(*self.keys, ids[None])


def drawn_ids(tiles: Iterable[tuple[int, Tensor]], draw: Draw) -> Int[Tensor, " n"]:
    """The ids that are drawn from tiles of logits in float64.

    The noise of an id does not depend on the tiles, so neither does the draw.
    """
    drawn = torch.zeros_like(draw.peak[:, 0], dtype=torch.long)
    best = torch.full_like(draw.peak[:, 0], -torch.inf)
    for start, logits in tiles:
        score, index = draw.scores(start, logits).max(-1)
        drawn = torch.where(score > best, index + start, drawn)
        best = torch.maximum(best, score)
    return drawn


def raw_tiles(
    logits: Logits,
    lines: Tensor,
    suppressed: tuple[tuple[int, ...], Tensor] | None,
    whole: bool,
) -> Iterator[tuple[int, Float[Tensor, "n some_ids"]]]:
    """Logits of some lines in float64, in which `suppressed` ids keep their real logit, given [all
    lines, ids]; in one tile if `whole`.
    """
    if not isinstance(logits, Tensor):
        raw = logits.raw.of(lines)
        for start, tile in [(0, raw[:])] if whole else raw.tiles():
            yield start, tile.double()
        return
    wide = logits[lines].double()
    if suppressed is not None:
        ids, values = suppressed
        put_back(wide, ids, values[lines])
    yield 0, wide


def put_back(logits: Tensor, ids: tuple[int, ...], values: Tensor) -> None:
    """Write the `values` [*lines, ids] of a few ids into logits [*lines, vocab], without copying a
    list of ids to the device.
    """
    for token, own in zip(ids, values.to(logits.dtype).unbind(-1)):
        logits[..., token] = own


def _add_boost(logits: Tensor, columns: Tensor, boost: Tensor) -> None:
    """Add `boost` [n, k] at `columns` [n, k] of the logits, where these exist, in place."""
    inside = (columns >= 0) & (columns < logits.shape[1])
    own_boost = boost.double().masked_fill(~inside, 0.0)
    logits.scatter_add_(1, columns.clamp(0, logits.shape[1] - 1), own_boost)
