"""Cache policies: which positions of a request a pass computes.

A pass computes positions `first` to `last` of a request and attends to everything stored. A policy
is that one rule, given the block and the step. `none` is exact, and so is `block` for block-causal
models. The others let the stored keys and values outside the range go stale (Fast-dLLM, arXiv
2505.22618, section 3.2; vicinity refresh: dInfer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.options import check_fields, from_mapping, option, parse_values, split_spec


@dataclass(frozen=True)
class BlockPosition:
    """Where a request is: its block from `start` to `end`, and the `step` within it.

    Both ends are multiples of the model's block if it is block-causal. Positions below `length` are
    visible. Keys and values below `stored_until` were last computed after their tokens were final.
    """

    start: int
    end: int
    step: int
    length: int
    stored_until: int


class CachePolicy(Protocol):
    """Says which positions a pass computes. Implementations are frozen dataclasses."""

    def span(self, position: BlockPosition) -> tuple[int, int]:
        """The half-open range of positions to compute."""
        ...


@dataclass(frozen=True)
class NoCache:
    """`none`: all positions, at every pass."""

    def span(self, position: BlockPosition) -> tuple[int, int]:
        """All positions."""
        return 0, position.length


@dataclass(frozen=True)
class Prefix:
    """`prefix`: all positions at the first pass of a block, then the block and what follows
    (Fast-dLLM).
    """

    def span(self, position: BlockPosition) -> tuple[int, int]:
        """From the block to the end."""
        return (position.start if position.step else 0), position.length


@dataclass(frozen=True)
class Dual:
    """`dual`: all positions at the first pass of a block, then only the block (Fast-dLLM)."""

    def span(self, position: BlockPosition) -> tuple[int, int]:
        """The block, after the first pass."""
        return (position.start, position.end) if position.step else (0, position.length)


@dataclass(frozen=True)
class PeriodicRefresh:
    """`every:n=N`: all positions at every n-th pass of a block, else only the block."""

    n: int = option(
        4, "Passes from one full computation to the next; 1 is the same as no cache.", ge=1
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def span(self, position: BlockPosition) -> tuple[int, int]:
        """The block, or all positions at every n-th step."""
        return (position.start, position.end) if position.step % self.n else (0, position.length)


@dataclass(frozen=True)
class Vicinity:
    """`vicinity:w=W`: all positions at the first pass of a block, then the block and w positions on
    either side (dInfer).
    """

    w: int = option(16, "Positions computed on either side of the block.", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def span(self, position: BlockPosition) -> tuple[int, int]:
        """The block with its margins, after the first pass."""
        if position.step == 0:
            return 0, position.length
        return max(0, position.start - self.w), min(position.length, position.end + self.w)


@dataclass(frozen=True)
class BlockCausal:
    """`block`, for block-causal models, and exact: only the block; its first pass also computes the
    tokens written since the last one.
    """

    def span(self, position: BlockPosition) -> tuple[int, int]:
        """The block, at the first pass with the block finished before it."""
        return (position.start if position.step else position.stored_until), position.end


POLICIES: dict[str, type[Any]] = {
    "none": NoCache,
    "prefix": Prefix,
    "dual": Dual,
    "every": PeriodicRefresh,
    "vicinity": Vicinity,
    "block": BlockCausal,
}


def supported_policies(geometry: ModelGeometry) -> list[str]:
    """Names of the policies that a model of this geometry can use."""
    if not geometry.supports_kv_cache:
        return ["none"]
    if geometry.causal_block is not None:
        return ["none", "block"]
    return [name for name in POLICIES if name != "block"]


def parse_policy(spec: str, geometry: ModelGeometry) -> CachePolicy:
    """The policy `name` or `name:knob=value`; "auto" is `block` where that is exact, else `none`.

    Raises `OptionError` for unknown policies and those that the model cannot use.
    """
    allowed = supported_policies(geometry)
    name, knobs = split_spec(spec, "cache")
    if name == "auto" and not knobs:
        name = "block" if "block" in allowed else "none"
    if name not in POLICIES:
        raise unknown_name("cache", name, ["auto", *POLICIES])
    if name not in allowed:
        kind = "a full-attention model"
        if not geometry.supports_kv_cache:
            kind = "a model of your own"
        elif geometry.causal_block is not None:
            kind = "a block-causal model"
        raise OptionError(
            f"this cache does not fit {kind}",
            given=spec,
            allowed=", ".join(allowed),
            hint="Choose another --cache.",
        )
    policy: CachePolicy = from_mapping(POLICIES[name], parse_values(POLICIES[name], knobs))
    return policy
