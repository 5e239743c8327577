"""Keys and values kept between passes: which positions a pass computes anew (a policy, as data) and
where the rest is stored.

A pass computes the positions `first` to `last` of a row and attends to everything stored. So a
policy is one rule: given the block
and the step, from where to where. Exact are `none` and, for block-causal models, `block`; the
others let the stored keys and values of
positions outside the range go stale (Fast-dLLM, arXiv 2505.22618, section 3.2; vicinity refresh:
dInfer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.options import check_fields, from_mapping, option, parse_values, split_spec


@dataclass(frozen=True)
class BlockPosition:
    """Where a row is: block `start` to `end` (whole blocks of a block-causal model), `step` of the
    block, `length` of what is seen.

    What lies before `settled` was last computed when nothing could change it any more.
    """

    start: int
    end: int
    step: int
    length: int
    stored_until: int


class CachePolicy(Protocol):
    """Says which positions a pass computes. A frozen dataclass."""

    def span(self, at: BlockPosition) -> tuple[int, int]:
        """First position to compute and the one behind the last."""
        ...


@dataclass(frozen=True)
class NoCache:
    """`none`: everything, at every pass."""

    def span(self, at: BlockPosition) -> tuple[int, int]:
        """All of the row."""
        return 0, at.length


@dataclass(frozen=True)
class Prefix:
    """`prefix`: all at a block's first pass, then the block and what follows (Fast-dLLM)."""

    def span(self, at: BlockPosition) -> tuple[int, int]:
        """From the block on."""
        return (at.start if at.step else 0), at.length


@dataclass(frozen=True)
class Dual:
    """`dual`: all at a block's first pass, then the block alone (Fast-dLLM)."""

    def span(self, at: BlockPosition) -> tuple[int, int]:
        """The block."""
        return (at.start, at.end) if at.step else (0, at.length)


@dataclass(frozen=True)
class PeriodicRefresh:
    """`every:n=N`: all at every n-th pass of a block, the block alone between."""

    n: int = option(
        4, "Passes from one full computation to the next; 1 is the same as no cache.", ge=1
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def span(self, at: BlockPosition) -> tuple[int, int]:
        """The block, or all of the row."""
        return (at.start, at.end) if at.step % self.n else (0, at.length)


@dataclass(frozen=True)
class Vicinity:
    """`vicinity:w=W`: all at a block's first pass, then the block and w positions on either side
    (dInfer).
    """

    w: int = option(16, "Positions computed before and behind the block.", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def span(self, at: BlockPosition) -> tuple[int, int]:
        """The block with its margins."""
        return (
            (max(0, at.start - self.w), min(at.length, at.end + self.w))
            if at.step
            else (0, at.length)
        )


@dataclass(frozen=True)
class BlockCausal:
    """`block`: for block-causal models, exact: the block alone; at its first pass also what was
    written since the last time.
    """

    def span(self, at: BlockPosition) -> tuple[int, int]:
        """The block, with the one finished before it at the first pass."""
        return (at.start if at.step else at.stored_until), at.end


POLICIES: dict[str, type[Any]] = {
    "none": NoCache,
    "prefix": Prefix,
    "dual": Dual,
    "every": PeriodicRefresh,
    "vicinity": Vicinity,
    "block": BlockCausal,
}


def supported_policies(geometry: ModelGeometry) -> list[str]:
    """Names of the policies that a network of this layout can use."""
    if not geometry.supports_kv_cache:
        return ["none"]
    return (
        ["none", "block"]
        if geometry.causal_block is not None
        else [name for name in POLICIES if name != "block"]
    )


def parse_policy(spec: str, geometry: ModelGeometry) -> CachePolicy:
    """The policy called `name` or `name:knob=value`; "auto" is `block` where that is exact, else
    `none`. Raises `OptionError`.
    """
    allowed = supported_policies(geometry)
    name, knobs = split_spec(spec, "cache")
    if name == "auto" and not knobs:
        name = "block" if "block" in allowed else "none"
    if name not in POLICIES:
        raise unknown_name("cache", name, ["auto", *POLICIES])
    if name not in allowed:
        kind = "block-causal" if geometry.causal_block is not None else "full-attention"
        reason = f"a {kind} model" if geometry.supports_kv_cache else "a model of your own"
        raise OptionError(
            f"this cache does not fit {reason}",
            given=spec,
            allowed=", ".join(allowed),
            hint="Choose another --cache.",
        )
    found: CachePolicy = from_mapping(POLICIES[name], parse_values(POLICIES[name], knobs))
    return found
