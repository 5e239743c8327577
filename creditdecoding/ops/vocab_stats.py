"""One pass over the logits: top-1 id, its logit, and the rest of the probability mass. Walks a few
rows at a time, so that no second [n, vocab] tensor exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from creditdecoding.ops.transfer import is_host, widest_float

# Elements handled at once: within a core's cache on a CPU, enough to fill the device elsewhere.
_CPU_CHUNK = 1 << 18
_DEVICE_CHUNK = 1 << 26
_PIECE = 1024
SMALL_VOCABULARY = 4096
"""Below it a plain search is faster than one by pieces."""


def row_chunks(logits: Float[Tensor, "n vocab"]) -> Iterator[slice]:
    """Slices of rows that together cover `logits`, each small enough for temporaries."""
    elements = _CPU_CHUNK if logits.device.type == "cpu" else _DEVICE_CHUNK
    size = max(1, elements // logits.shape[1])
    rows = len(logits)
    for start in range(0, rows, size):
        end = min(start + size, rows)
        yield slice(start, end)


def vocab_mass(
    logits: Float[Tensor, "n vocab"],
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Top-1 id (the lowest of equals), its logit in float32, and `rest` in float64, of each row.

    `rest` is the sum of exp(logit - top logit) over all other ids. The top-1 has probability
    1 / (1 + rest), so the probability of all others is known to seven digits however small it is.
    """
    chunks = list(row_chunks(logits))
    if len(chunks) <= 1:
        return tile_mass(logits)
    ids, top, rest = zip(*(tile_mass(logits[part]) for part in chunks))
    return torch.cat(ids), torch.cat(top), torch.cat(rest)


def tile_mass(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`vocab_mass` of rows that are handled at once."""
    wide = logits.float()
    first = _first_maximum(wide)[:, None]
    peak = wide.gather(1, first)
    others = (wide - peak).exp_()
    others.scatter_(1, first, 0.0)
    rest = others.sum(dim=-1).to(widest_float(logits.device))
    return first[:, 0], peak[:, 0], rest


def vocab_stats(
    logits: Float[Tensor, "n vocab"],
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Top-1 id (the lowest of equals), its logit, and log-sum-exp, in float32 at any dtype."""
    ids, top, rest = vocab_mass(logits)
    return ids, top, log_sum(top, rest)


def log_sum(top: Float[Tensor, ...], rest: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Log-sum-exp in float32 from a top logit and the `rest` of `vocab_mass`."""
    total = top + rest.log1p()
    return total.float()


def _first_maximum(wide: Float[Tensor, "n vocab"]) -> Int[Tensor, " n"]:
    """`wide.argmax(-1)`, several times faster on a CPU: by numpy, or by pieces."""
    if wide.shape[1] >= SMALL_VOCABULARY:
        return _first_maximum_by_pieces(wide)
    if is_host(wide.device) and wide.shape[1]:
        return torch.from_numpy(wide.detach().numpy().argmax(-1))
    return wide.max(-1).indices


def _first_maximum_by_pieces(wide: Float[Tensor, "n vocab"]) -> Int[Tensor, " n"]:
    """Maxima of short pieces first, then a search in the first piece that has the maximum."""
    rows, vocab = wide.shape
    whole = vocab // _PIECE * _PIECE
    pieces = wide[:, :whole].reshape(rows, vocab // _PIECE, _PIECE)
    best = pieces.amax(-1)
    if whole < vocab:
        last = wide[:, whole:].amax(-1, keepdim=True)
        best = torch.cat((best, last), dim=1)
    first_piece = best.argmax(-1, keepdim=True)
    offsets = torch.arange(_PIECE, device=wide.device)
    columns = first_piece * _PIECE + offsets
    # Past the end the last id repeats; the first of equals wins.
    inside = wide.gather(1, columns.clamp(max=vocab - 1))
    first = inside.argmax(-1, keepdim=True)
    return columns.gather(1, first)[:, 0]
