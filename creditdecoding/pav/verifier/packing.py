"""States of the same answer in one row: what is behind a step does not change what is read at its
end, so one pass serves all prefixes.

A row is a prompt and the longest answer; a position sees the prompt, its own step and the steps
before it, never what comes later. A prefix's
value is read at its last position, or at ids of its own (`tail`: masks, an end token) that stand
behind it and that nothing else sees. So a state
gets the value it gets alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from creditdecoding.pav.steps import PartialAnswer

BEHIND = 2**30  # the step of padding: behind all others


@dataclass(frozen=True)
class Suffix:
    """The ids behind a state: a complete answer's end token, `masks` masks behind an unfinished
    one.
    """

    mask_id: int
    end_id: int
    masks: int = 0

    def suffix_ids(self, state: PartialAnswer) -> tuple[int, ...]:
        """What stands behind this state alone."""
        return (self.end_id,) if state.done else (self.mask_id,) * self.masks


@dataclass(frozen=True)
class Packed:
    """Rows [rows, length]: ids, their rotary positions, surprise at them, which keys each sees;
    `read` = (rows, columns) of the states.
    """

    tokens: Tensor
    positions: Tensor
    surprise: Tensor
    allowed: Tensor
    read: tuple[Tensor, Tensor]

    def to(self, device: torch.device) -> Packed:
        """The same where the network is."""
        row, column = (index.to(device) for index in self.read)
        tokens, positions, surprise, allowed = (
            x.to(device) for x in (self.tokens, self.positions, self.surprise, self.allowed)
        )
        return Packed(tokens, positions, surprise, allowed, (row, column))


def prefix_chains(states: Iterable[PartialAnswer]) -> list[tuple[PartialAnswer, ...]]:
    """Distinct states as rows: each state that no other continues, behind those of the others that
    it continues.

    A state that several continue is in the row of each.
    """
    distinct = dict.fromkeys(states)
    paths = {state: state.prefixes for state in distinct}
    continued = {prefix for path in paths.values() for prefix in path[:-1]}
    return [
        tuple(prefix for prefix in path if prefix in distinct)
        for state, path in paths.items()
        if state not in continued
    ]


def row_width(chain: Sequence[PartialAnswer], feed: Suffix) -> int:
    """Ids of a chain's row."""
    return (
        len(chain[-1].prompt)
        + len(chain[-1].written)
        + sum(len(feed.suffix_ids(state)) for state in chain)
    )


def pack(
    rows: Sequence[Sequence[PartialAnswer]],
    feed: Suffix,
    surprise: Sequence[Tensor],
    multiple: int = 1,
) -> Packed:
    """Lay out chains with the surprise at what their last states have written, as wide as the
    widest (a multiple of `multiple`).
    """
    length = -(-max(row_width(chain, feed) for chain in rows) // multiple) * multiple
    tokens = torch.full((len(rows), length), feed.mask_id)
    positions, own = (
        torch.zeros(len(rows), length, dtype=torch.long),
        torch.zeros(len(rows), length, dtype=torch.long),
    )
    step, surprises = torch.full((len(rows), length), BEHIND), torch.zeros(len(rows), length)
    read: list[tuple[int, int]] = []
    for row, chain in enumerate(rows):
        ids, places, steps = _trunk_of(chain[-1])
        tails = [0] * len(ids)
        for number, state in enumerate(chain, 1):
            tail, end = feed.suffix_ids(state), len(state.prompt) + len(state.written)
            read.append((row, len(ids) if tail else end - 1))
            ids += tail
            places += range(end, end + len(tail))
            steps += [state.depth] * len(tail)
            tails += [number] * len(tail)
        for into, values in ((tokens, ids), (positions, places), (step, steps), (own, tails)):
            into[row, : len(ids)] = torch.tensor(values)
        start = len(chain[-1].prompt)
        surprises[row, start : start + len(surprise[row])] = surprise[row]
    shared = (own[:, None, :] == 0) & (step[:, None, :] <= step[:, :, None])
    tail_of_query = (own[:, None, :] == own[:, :, None]) & (own[:, :, None] > 0)
    at = torch.tensor(read).T
    return Packed(tokens, positions, surprises, shared | tail_of_query, (at[0], at[1]))


def _trunk_of(state: PartialAnswer) -> tuple[list[int], list[int], list[int]]:
    """Ids of a whole state, their positions, and the step of each: 0 for the prompt."""
    ids = [*state.prompt, *state.written]
    steps = [0] * len(state.prompt)
    for number, (start, end) in enumerate(zip((0, *state.ends), state.ends), 1):
        steps += [number] * (end - start)
    return ids, list(range(len(ids))), steps
