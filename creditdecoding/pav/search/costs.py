"""What searches are charged: one account for all methods, live or read from a pool of answers.

A sequence-forward is one row through a network once. The policy's are its passes; a pass that
several rollouts have in common counts once. The verifier's are two for each row it reads: one of
the base model for the surprisal, one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from creditdecoding.pav.driver import Sample, Search
from creditdecoding.pav.sampler import Cost, Pass, Rollout
from creditdecoding.pav.search.result import SearchResult, Spent
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.packing import prefix_chains

FORWARDS_A_ROW = 2
"""Networks that a row goes through to be scored."""


def charged(search: Search[SearchResult]) -> Search[SearchResult]:
    """The same search, its result with what it cost but for seconds."""
    policy = Cost()
    verifier = Cost()
    reply = None
    while True:
        try:
            request = search.send(reply)
        except StopIteration as stop:
            result: SearchResult = stop.value
            return replace(result, spent=Spent(policy, verifier))
        reply = yield request
        if isinstance(request, Sample):
            policy += policy_cost(reply)
        else:
            verifier += verifier_cost(request.states)


def policy_cost(rollouts: Iterable[Rollout]) -> Cost:
    """The cost of rollouts together; a pass that several have in common counts once."""
    distinct: dict[int, Pass] = {}
    tokens = 0
    passes = 0
    for rollout in rollouts:
        tokens += rollout.cost.tokens
        passes += len(rollout.passes)
        for one in rollout.passes:
            distinct[one.key] = max(one, distinct.get(one.key, one))
    sequences = sum(one.sequences for one in distinct.values())
    positions = sum(one.positions for one in distinct.values())
    return Cost(passes, sequences, positions, tokens)


def verifier_sequences(rows: int) -> int:
    """Sequence-forwards that scoring `rows` rows takes."""
    return FORWARDS_A_ROW * rows


def verifier_cost(states: Sequence[PartialAnswer]) -> Cost:
    """The cost of scoring states: a row for each state that no other of them continues."""
    longest = [chain[-1] for chain in prefix_chains(states)]
    sequences = verifier_sequences(len(longest))
    positions = sum(2 * len(state.prompt) + 3 * len(state.written) for state in longest)
    return Cost(sequences, sequences, positions)
