"""Keys and values kept between passes: which positions a pass computes anew (a policy, as data) and where the rest is stored.

A pass computes the positions `first` to `last` of a row and attends to everything stored. So a policy is one rule: given the block
and the step, from where to where. Exact are `none` and, for block-causal models, `block`; the others let the stored keys and values of
positions outside the range go stale (Fast-dLLM, arXiv 2505.22618, section 3.2; vicinity refresh: dInfer).

Leaves to others: attention (models/), which rows run (generate.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from creditdecoding.config import check_fields, from_mapping, option, split_spec, typed
from creditdecoding.errors import OptionError, unknown_name


@dataclass(frozen=True)
class Layout:
    """What a loop must know of a network's geometry.

    `causal_block`, `logit_shift` as in `ModelConfig`; `keeps`: the network can keep keys and values between passes, and is told the
    positions of its tokens and which of them see which.
    """

    causal_block: int | None = None
    logit_shift: bool = False
    keeps: bool = False


@dataclass(frozen=True)
class At:
    """Where a row is: block `start` to `end` (whole blocks of a block-causal model), `step` of the block, `length` of what is seen.

    What lies before `settled` was last computed when nothing could change it any more.
    """

    start: int
    end: int
    step: int
    length: int
    settled: int


class CachePolicy(Protocol):
    """Says which positions a pass computes. A frozen dataclass."""

    def span(self, at: At) -> tuple[int, int]:
        """First position to compute and the one behind the last."""
        ...


@dataclass(frozen=True)
class Everything:
    """`none`: everything, at every pass."""

    def span(self, at: At) -> tuple[int, int]:
        """All of the row."""
        return 0, at.length


@dataclass(frozen=True)
class Prefix:
    """`prefix`: all at a block's first pass, then the block and what follows (Fast-dLLM)."""

    def span(self, at: At) -> tuple[int, int]:
        """From the block on."""
        return (at.start if at.step else 0), at.length


@dataclass(frozen=True)
class Dual:
    """`dual`: all at a block's first pass, then the block alone (Fast-dLLM)."""

    def span(self, at: At) -> tuple[int, int]:
        """The block."""
        return (at.start, at.end) if at.step else (0, at.length)


@dataclass(frozen=True)
class Every:
    """`every:n=N`: all at every n-th pass of a block, the block alone between."""

    n: int = option(4, "Passes from one full computation to the next; 1 is the same as no cache.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)

    def span(self, at: At) -> tuple[int, int]:
        """The block, or all of the row."""
        return (at.start, at.end) if at.step % self.n else (0, at.length)


@dataclass(frozen=True)
class Vicinity:
    """`vicinity:w=W`: all at a block's first pass, then the block and w positions on either side (dInfer)."""

    w: int = option(16, "Positions computed before and behind the block.", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def span(self, at: At) -> tuple[int, int]:
        """The block with its margins."""
        return (max(0, at.start - self.w), min(at.length, at.end + self.w)) if at.step else (0, at.length)


@dataclass(frozen=True)
class BlockCausal:
    """`block`: for block-causal models, exact: the block alone; at its first pass also what was written since the last time."""

    def span(self, at: At) -> tuple[int, int]:
        """The block, with the one finished before it at the first pass."""
        return (at.start if at.step else at.settled), at.end


POLICIES: dict[str, type[Any]] = {
    "none": Everything,
    "prefix": Prefix,
    "dual": Dual,
    "every": Every,
    "vicinity": Vicinity,
    "block": BlockCausal,
}


def fitting(layout: Layout) -> list[str]:
    """Names of the policies that a network of this layout can use."""
    if not layout.keeps:
        return ["none"]
    return ["none", "block"] if layout.causal_block is not None else [name for name in POLICIES if name != "block"]


def policy(spec: str, layout: Layout) -> CachePolicy:
    """The policy called `name` or `name:knob=value`; "auto" is `block` where that is exact, else `none`. Raises `OptionError`."""
    allowed = fitting(layout)
    name, knobs = split_spec(spec, "cache")
    if name == "auto" and not knobs:
        name = "block" if "block" in allowed else "none"
    if name not in POLICIES:
        raise unknown_name("cache", name, ["auto", *POLICIES])
    if name not in allowed:
        kind = "block-causal" if layout.causal_block is not None else "full-attention"
        reason = f"a {kind} model" if layout.keeps else "a model of your own"
        raise OptionError(f"this cache does not fit {reason}", given=spec, allowed=", ".join(allowed), hint="Choose another --cache.")
    found: CachePolicy = from_mapping(POLICIES[name], typed(POLICIES[name], knobs))
    return found


class LayerStore(NamedTuple):
    """One layer's part of a pass: buffers [slots, kv_heads, columns + 1, dim], rows' slots, and the column of every computed position.

    The last column takes what padding computes and is never attended to; `seen` columns are. `run`: the slots, if they follow each other.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor
    columns: Tensor
    seen: int
    run: slice | None

    def put(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write [rows, kv_heads, computed, dim] in place and return all that is seen, [rows, kv_heads, seen, dim].

        What is given beyond the columns (shadows) is not written; it comes back behind what is seen.
        """
        count = self.columns.shape[1]
        self.keys[self.slots[:, None], :, self.columns] = k[:, :, :count].transpose(1, 2)
        self.values[self.slots[:, None], :, self.columns] = v[:, :, :count].transpose(1, 2)
        at = self.slots if self.run is None else self.run  # a run is a view, no copy
        keys, values = self.keys[at, :, : self.seen], self.values[at, :, : self.seen]
        if k.shape[2] == count:
            return keys, values
        return torch.cat((keys, k[:, :, count:]), dim=2), torch.cat((values, v[:, :, count:]), dim=2)


class KVCache:
    """Preallocated keys and values of every layer; a row owns a slot while it runs. The one mutable thing between passes."""

    def __init__(self, layers: int, kv_heads: int, dim: int, device: torch.device, dtype: torch.dtype) -> None:
        self.layers, self.kv_heads, self.dim, self.device, self.dtype = layers, kv_heads, dim, device, dtype
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.slots, self.columns = 0, 0

    def reserve(self, slots: int, columns: int) -> None:
        """Make room for `slots` rows of `columns` positions; what is stored stays."""
        if slots <= self.slots and columns <= self.columns:
            return
        self.resize(max(slots, self.slots), max(columns, self.columns))

    def resize(self, slots: int, columns: int) -> None:
        """Hold `slots` rows of `columns` positions, no more; of what is stored, that part stays."""
        rows, width = self.slots, self.columns = min(slots, self.slots), min(columns, self.columns)  # holds if memory runs out half-way
        for layer in range(self.layers):
            pair = [torch.zeros(slots, self.kv_heads, columns + 1, self.dim, device=self.device, dtype=self.dtype) for _ in range(2)]
            if layer == len(self.buffers):
                self.buffers.append((pair[0], pair[1]))
            for new, old in zip(pair, self.buffers[layer]):
                new[:rows, :, :width] = old[:rows, :, :width]
            self.buffers[layer] = (pair[0], pair[1])
        self.slots, self.columns = slots, columns

    def move(self, old: int | list[int], new: int | list[int]) -> None:
        """Copy what slot `old` holds to slot `new`, or each of several to its own."""
        for pair in self.buffers:
            for x in pair:
                x[new] = x[old]

    def wipe(self, slot: int) -> None:
        """Forget what a slot holds: numbers that are none must not meet the next row, whose mask would not keep them out."""
        for pair in self.buffers:
            for x in pair:
                x[slot] = 0

    def view(self, slots: list[int], columns: Tensor, seen: int) -> list[LayerStore]:
        """Every layer's part of a pass over rows in `slots`; `columns` [rows, computed], -1 where a position is padding."""
        at = torch.tensor(slots, device=self.device)
        where = torch.where(columns < 0, self.columns, columns).to(self.device)
        run = slice(slots[0], slots[0] + len(slots))
        follow = slots == list(range(run.start, run.stop))
        return [LayerStore(keys, values, at, where, seen, run if follow else None) for keys, values in self.buffers]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.buffers)
