"""Prefixes of one answer in one row: one pass scores every state of an answer.

A row is a prompt and the longest answer. Attention is causal from step to step: a position sees the
prompt, its own step and the steps before it. The value of a state is read at its last position, or
at its suffix (masks, an end token), which comes after the state and which nothing else sees. So a
state gets the value it gets alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from creditdecoding.pav.steps import PartialAnswer

PADDING_STEP = 2**30  # later than all steps


@dataclass(frozen=True)
class Suffix:
    """Ids after a state: the end token of a complete answer, `masks` masks of an unfinished one."""

    mask_id: int
    end_id: int
    masks: int = 0

    def suffix_ids(self, state: PartialAnswer) -> tuple[int, ...]:
        """The ids that follow this state alone."""
        return (self.end_id,) if state.done else (self.mask_id,) * self.masks


@dataclass(frozen=True)
class Packed:
    """Rows [rows, length]: ids, rotary positions, surprisal, and the keys that each position sees
    [rows, length, length]. `read` = (rows, columns) of the states.
    """

    tokens: Tensor
    positions: Tensor
    surprise: Tensor
    allowed: Tensor
    read: tuple[Tensor, Tensor]

    def to(self, device: torch.device) -> Packed:
        """The same on another device."""
        rows, columns = self.read
        return Packed(
            tokens=self.tokens.to(device),
            positions=self.positions.to(device),
            surprise=self.surprise.to(device),
            allowed=self.allowed.to(device),
            read=(rows.to(device), columns.to(device)),
        )


def prefix_chains(states: Iterable[PartialAnswer]) -> list[tuple[PartialAnswer, ...]]:
    """Distinct states as rows: each state that no other continues, after its own prefixes.

    A state that several continue is in the row of each.
    """
    distinct = dict.fromkeys(states)
    prefixes = {state: state.prefixes for state in distinct}
    continued = {prefix for path in prefixes.values() for prefix in path[:-1]}
    return [
        tuple(prefix for prefix in path if prefix in distinct)
        for state, path in prefixes.items()
        if state not in continued
    ]


def row_width(chain: Sequence[PartialAnswer], suffix: Suffix) -> int:
    """Positions of a chain's row."""
    return chain[-1].length + sum(len(suffix.suffix_ids(state)) for state in chain)


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    """Rows of numbers [rows, width], filled up at their ends."""
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


@dataclass
class _Row:
    """A chain laid out: ids, positions, steps, and the number of the suffix a position belongs to
    (0: the answer itself); `read` holds the column of each state.
    """

    ids: list[int]
    positions: list[int]
    steps: list[int]
    suffixes: list[int]
    read: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, chain: Sequence[PartialAnswer], suffix: Suffix) -> _Row:
        longest = chain[-1]
        steps = [0] * len(longest.prompt)
        start = 0
        for number, end in enumerate(longest.ends, 1):
            steps += [number] * (end - start)
            start = end
        length = longest.length
        row = cls([*longest.prompt, *longest.written], list(range(length)), steps, [0] * length)
        for number, state in enumerate(chain, 1):
            row._add_state(state, number, suffix.suffix_ids(state))
        return row

    def _add_state(self, state: PartialAnswer, number: int, suffix: Sequence[int]) -> None:
        self.read.append(len(self.ids) if suffix else state.length - 1)
        self.ids += suffix
        self.positions += range(state.length, state.length + len(suffix))
        self.steps += [state.depth] * len(suffix)
        self.suffixes += [number] * len(suffix)


def pack(
    chains: Sequence[Sequence[PartialAnswer]],
    suffix: Suffix,
    surprisal: Sequence[Tensor],
    multiple: int = 1,
) -> Packed:
    """Lay out chains, as wide as the widest one, rounded up to a multiple of `multiple`.

    `surprisal` holds that of the written ids of each chain's last state.
    """
    rows = [_Row.of(chain, suffix) for chain in chains]
    width = -(-max(len(row.ids) for row in rows) // multiple) * multiple
    surprise = torch.zeros(len(rows), width)
    for row, (chain, values) in enumerate(zip(chains, surprisal)):
        start = len(chain[-1].prompt)
        surprise[row, start : start + len(values)] = values
    read = torch.tensor(
        [(number, column) for number, row in enumerate(rows) for column in row.read]
    )
    return Packed(
        tokens=padded([row.ids for row in rows], width, suffix.mask_id),
        positions=padded([row.positions for row in rows], width, 0),
        surprise=surprise,
        allowed=_attention(rows, width),
        read=(read[:, 0], read[:, 1]),
    )


def _attention(rows: Sequence[_Row], width: int) -> Tensor:
    """Keys that each position sees: the prompt, earlier steps and its own, and its own suffix."""
    step = padded([row.steps for row in rows], width, PADDING_STEP)
    owner = padded([row.suffixes for row in rows], width, 0)
    earlier = (owner[:, None, :] == 0) & (step[:, None, :] <= step[:, :, None])
    same_suffix = (owner[:, None, :] == owner[:, :, None]) & (owner[:, :, None] > 0)
    return earlier | same_suffix
