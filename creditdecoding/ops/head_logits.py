"""Logits that are never written: hidden states and the weight of the head in place of [n, vocab].

Every question about them is answered tile by tile: some lines times some ids. A logit is what the
head would have written: a product that is summed in float32 and rounded to the dtype of the model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from creditdecoding.ops.allowed_ids import AllowedIds
from creditdecoding.ops.vocab_stats import row_chunks, tile_mass, vocab_mass

_CPU_TILE = 1 << 18
"""Logits in a tile on a CPU: within a core's cache."""
_DEVICE_TILE = 1 << 20
"""Logits in a tile elsewhere: a few MiB."""
_CPU_LINES = 256
"""Lines that share a walk through the weight on a CPU."""
_DEVICE_LINES = 2048
"""The same elsewhere."""
_CAPABILITY = (8, 0)
"""The first NVIDIA GPUs that the kernel is for."""

Mass = tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]
"""Top-1 id, its logit and `rest`, as `vocab_mass` returns them."""


@dataclass(frozen=True, eq=False)
class HeadLogits:
    """The logits [n, vocab] that `weight` [vocab, size] makes of `hidden` [n, size], which is after
    the final norm.

    Ids that must not be written have logit -inf:

    - those of `banned` at every line;
    - those of `stop_ids` at the lines of `no_stop`;
    - what one of the constraints in `allowed` does not allow.

    At the lines of `suppressed`, `stop_ids` have logit -inf too, but may be written: `raw` knows
    their real logits.

    Indexing by lines writes these lines, for whoever needs whole ones.
    """

    hidden: Float[Tensor, "n size"]
    weight: Float[Tensor, "vocab size"]
    banned: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()
    no_stop: Bool[Tensor, " n"] | None = None
    suppressed: Bool[Tensor, " n"] | None = None
    allowed: tuple[AllowedIds, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Lines and ids."""
        return len(self.hidden), len(self.weight)

    @property
    def device(self) -> torch.device:
        """Where the hidden states are."""
        return self.hidden.device

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self.hidden)

    def __getitem__(self, lines: slice | Tensor) -> Float[Tensor, "*lines vocab"]:
        """Some lines, written, in the dtype of the hidden states."""
        part = self.of(lines)
        return part._ruled_out(F.linear(part.hidden, part.weight), 0, part.stops_at)

    @property
    def raw(self) -> HeadLogits:
        """The same with the real logits of suppressed ids."""
        return replace(self, suppressed=None)

    @property
    def stops_at(self) -> Bool[Tensor, " n"] | None:
        """The lines where `stop_ids` have logit -inf; None: nowhere."""
        if self.no_stop is None:
            return self.suppressed
        if self.suppressed is None:
            return self.no_stop
        return self.no_stop | self.suppressed

    def of(self, lines: slice | Tensor) -> HeadLogits:
        """Some of the lines."""
        return replace(
            self,
            hidden=self.hidden[lines],
            no_stop=None if self.no_stop is None else self.no_stop[lines],
            suppressed=None if self.suppressed is None else self.suppressed[lines],
            allowed=tuple(constraint.of(lines) for constraint in self.allowed),
        )

    def line_chunks(self) -> Iterator[slice]:
        """Slices of lines that share a walk, of about equal sizes: a CPU's product of very few
        lines takes another kernel, with other last digits.
        """
        lines = _CPU_LINES if self.device.type == "cpu" else _DEVICE_LINES
        chunks = max(1, -(-len(self) // lines))
        size = -(-len(self) // chunks)
        for start in range(0, max(1, len(self)), max(1, size)):
            yield slice(start, min(start + size, len(self)))

    def tiles(self) -> Iterator[tuple[int, Float[Tensor, "n some_ids"]]]:
        """The logits in float32, some ids at a time, each part with its first id.

        All lines share a tile; `line_chunks` says how many lines should.
        """
        elements = _CPU_TILE if self.device.type == "cpu" else _DEVICE_TILE
        width = max(1, elements // max(1, len(self)))
        stops_at = self.stops_at
        for start in range(0, len(self.weight), width):
            values = F.linear(self.hidden, self.weight[start : start + width]).float()
            yield start, self._ruled_out(values, start, stops_at)

    def mass(self) -> Mass:
        """What `vocab_mass` returns for the written logits.

        By the Triton kernel on NVIDIA GPUs that it is for, else and under constraints by tiles of
        torch. Both round each logit to the dtype of the hidden states first.
        """
        if self.allowed:
            return self.tiled_mass()
        if self.hidden.is_cuda and torch.cuda.get_device_capability(self.device) >= _CAPABILITY:
            kernel = _kernel()
            if kernel is not None:
                return kernel.head_mass(self)  # type: ignore[no-any-return]
        return self.tiled_mass()

    def tiled_mass(self) -> Mass:
        """`mass` by torch alone, on any device."""
        ids, top, rest = zip(*(self.of(part)._mass_of_lines() for part in self.line_chunks()))
        return torch.cat(ids), torch.cat(top), torch.cat(rest)

    def _mass_of_lines(self) -> Mass:
        """The mass of lines that share a walk: that of a tile at a time, merged."""
        parts = (_shifted(tile_mass(tile), start) for start, tile in self.tiles())
        return completed(functools.reduce(merged, parts))

    def gather(
        self, lines: Int[Tensor, "*any"], ids: Int[Tensor, "*any k"]
    ) -> Float[Tensor, "*any k"]:
        """Logits of a few ids of each line, in float32, by a small product with their weights."""
        k = ids.shape[-1]
        elements = _CPU_TILE if self.device.type == "cpu" else _DEVICE_TILE
        size = max(1, elements // max(1, k * self.hidden.shape[1]))
        parts = [
            torch.bmm(self.weight[some_ids], self.hidden[some_lines][..., None])[..., 0]
            for some_lines, some_ids in zip(
                lines.reshape(-1).split(size), ids.reshape(-1, k).split(size)
            )
        ]
        values = torch.cat(parts).float().view(ids.shape)
        return self._ruled_out_at(values, lines, ids)

    def _ruled_out_at(self, values: Tensor, lines: Tensor, ids: Tensor) -> Tensor:
        """Logits [*any, k] of some ids, -inf at those that must not be written."""
        for token in self.banned:
            values = values.masked_fill(ids == token, -torch.inf)
        stops_at = self.stops_at
        if stops_at is not None:
            stops_here = stops_at[lines][..., None]
            for token in self.stop_ids:
                values = values.masked_fill((ids == token) & stops_here, -torch.inf)
        for constraint in self.allowed:
            values = values.masked_fill(~constraint.at(lines, ids), -torch.inf)
        return values

    def _ruled_out(self, values: Tensor, start: int, stops_at: Tensor | None) -> Tensor:
        """-inf at the ids that must not be written, in place; `start` is the id of column 0."""
        columns = range(start, start + values.shape[-1])
        for token in filter(columns.__contains__, self.banned):
            values[..., token - start].fill_(-torch.inf)
        if stops_at is not None:
            for token in filter(columns.__contains__, self.stop_ids):
                values[..., token - start].masked_fill_(stops_at, -torch.inf)
        for constraint in self.allowed:
            constraint.rule_out(values, start)
        return values


@runtime_checkable
class UnwrittenLogits(Protocol):
    """Logits [n, vocab] that no tensor holds: `HeadLogits`, `ShardedLogits`."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def raw(self) -> UnwrittenLogits: ...
    def __len__(self) -> int: ...
    def __getitem__(self, lines: slice | Tensor) -> Tensor: ...
    def of(self, lines: slice | Tensor) -> UnwrittenLogits: ...
    def line_chunks(self) -> Iterator[slice]: ...
    def tiles(self) -> Iterator[tuple[int, Tensor]]: ...
    def mass(self) -> Mass: ...
    def gather(self, lines: Tensor, ids: Tensor) -> Tensor: ...


Logits = Tensor | UnwrittenLogits
"""[n, vocab], written or not."""
ModelLogits = Tensor | HeadLogits
"""What a model of this package returns."""
_Lines = TypeVar("_Lines", Tensor, HeadLogits, ModelLogits)


def merged(low: Mass, high: Mass) -> Mass:
    """The mass of two sets of ids, all ids of `low` below those of `high`.

    The lower peak joins the rest. Terms are only added, never subtracted, so that a small rest
    keeps its digits. Of equal peaks the one with the lower id wins. Where a sum is not a number,
    the result is none.
    """
    low_id, low_top, low_rest = low
    high_id, high_top, high_rest = high
    high_wins = high_top > low_top
    top = torch.maximum(low_top, high_top)
    rest = _relative(low_top, top, low_rest) * (low_rest + high_wins)
    rest = rest + _relative(high_top, top, high_rest) * (high_rest + ~high_wins)
    return torch.where(high_wins, high_id, low_id), top, rest


def _relative(peak: Tensor, top: Tensor, rest: Tensor) -> Tensor:
    """exp(peak - top) in the dtype of `rest`; 0 where every id of a set is ruled out."""
    weight = (peak.to(rest.dtype) - top.to(rest.dtype)).exp()
    return weight.masked_fill(peak == -torch.inf, 0.0)


def completed(mass: Mass) -> Mass:
    """The mass of a whole vocabulary: where every id is ruled out, `rest` is not a number."""
    ids, top, rest = mass
    return ids, top, rest.masked_fill(top == -torch.inf, torch.nan)


def _shifted(mass: Mass, start: int) -> Mass:
    """The mass of a tile that begins with id `start`."""
    ids, top, rest = mass
    return ids + start, top, rest.masked_fill(top == -torch.inf, 0.0)


@functools.cache
def _kernel() -> Any:
    """The Triton kernel; None if Triton, which comes with torch for CUDA, is missing."""
    try:
        return import_module("creditdecoding.ops.head_kernel")
    except ImportError:
        return None


def mass_of(logits: Logits) -> Mass:
    """`vocab_mass` of written and of unwritten logits."""
    return vocab_mass(logits) if isinstance(logits, Tensor) else logits.mass()


def lines_of(logits: _Lines, lines: slice | Tensor) -> _Lines:
    """Some lines; unwritten ones stay so."""
    return logits[lines] if isinstance(logits, Tensor) else logits.of(lines)


def gather_logits(
    logits: Logits, lines: Int[Tensor, "*any"], ids: Int[Tensor, "*any k"]
) -> Float[Tensor, "*any k"]:
    """Logits of a few ids of each line, in float32."""
    if isinstance(logits, Tensor):
        return logits[lines[..., None], ids].float()
    return logits.gather(lines, ids)


def line_chunks(logits: Logits) -> Iterator[slice]:
    """Slices of lines that together cover `logits`, each small enough for temporaries."""
    return row_chunks(logits) if isinstance(logits, Tensor) else logits.line_chunks()


def tiles_of(
    logits: Logits, lines: slice | Tensor
) -> Iterator[tuple[int, Float[Tensor, "lines some_ids"]]]:
    """The logits of some lines in float32, each part with its first id; written ones in one."""
    if isinstance(logits, Tensor):
        yield 0, logits[lines].float()
    else:
        yield from logits.of(lines).tiles()
