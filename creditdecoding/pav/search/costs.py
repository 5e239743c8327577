"""What searches are charged: one account for all methods, live or read from a pool of answers.

A sequence-forward is one row through a network once. The policy's are its passes, one that several
draws have in common once. The verifier's are two for each row that it reads, the base model's
(surprise.py) and its own (model.py), whichever method asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from creditdecoding.pav.sampler import Cost
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.packing import prefix_chains

FORWARDS_A_ROW = 2
"""Networks that a row goes through before a verifier's word on it is known."""


class Pass(NamedTuple):
    """A pass of a row of the policy.

    `key` tells it from others that show the network something else; `sequences` it takes and
    `positions` it computes.
    """

    key: int
    sequences: int
    positions: int


class Bought(NamedTuple):
    """What a draw of the policy bought: its passes, and tokens that were kept."""

    passes: tuple[Pass, ...]
    tokens: int


def policy_cost(draws: Iterable[Bought]) -> Cost:
    """What draws cost together: a pass that several have in common once."""
    distinct: dict[int, Pass] = {}
    tokens = rows = 0
    for draw in draws:
        tokens += draw.tokens
        rows += len(draw.passes)
        for each in draw.passes:
            distinct[each.key] = max(each, distinct.get(each.key, each))
    sequences = sum(each.sequences for each in distinct.values())
    positions = sum(each.positions for each in distinct.values())
    return Cost(rows, sequences, positions, tokens)


def verifier_sequences(rows: int) -> int:
    """Sequence-forwards that a verifier's word on `rows` rows costs."""
    return FORWARDS_A_ROW * rows


def verifier_cost(states: Sequence[PartialAnswer]) -> Cost:
    """What a verifier's word on states costs: a row for each that no other of them continues."""
    rows = [chain[-1] for chain in prefix_chains(states)]
    sequences = verifier_sequences(len(rows))
    positions = sum(2 * len(state.prompt) + 3 * len(state.written) for state in rows)
    return Cost(sequences, sequences, positions)
