"""Beam search over steps under a verifier.

States are ranked by the effective reward Q^pi + alpha * A^mu, where the prover mu is best-of-k of
the same Q. The answer is chosen by Q^pi alone (arXiv 2410.08146, sections 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from creditdecoding.pav.driver import Search
from creditdecoding.pav.problems import Problem
from creditdecoding.pav.sampler import RolloutRequest
from creditdecoding.pav.search.result import (
    Candidate,
    SearchResult,
    sample_candidates,
    score_states,
)
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import advantage


@dataclass(frozen=True)
class EffectiveReward:
    """Q^pi + `alpha` * A^mu of the best-of-`k` prover."""

    alpha: float
    k: int

    def score(self, candidate: Candidate, q: float, parent_q: float) -> Candidate:
        """The candidate with its Q^pi `q`, its advantage over the parent, and its reward."""
        gain = advantage(parent_q, q, self.k)
        return replace(candidate, q=q, advantage=gain, score=q + self.alpha * gain)


def beam(
    problem: Problem, n: int, c: int, reward: EffectiveReward, steps: int = 1
) -> Search[SearchResult]:
    """Keep the best `n` different states of `c` next steps from each, until all are complete.

    `steps` steps are drawn at a time. Each round draws `c` times for every slot that has no
    complete answer, so the best states are expanded more than once while there are fewer than `n`.
    A complete answer keeps its slot while it is among the best.
    """
    seeds = problem.seeds()
    values: dict[PartialAnswer, float] = {}
    rounds: list[tuple[Candidate, ...]] = []
    kept = [Candidate(problem.root)]
    while not all(candidate.state.done for candidate in kept):
        complete = [candidate for candidate in kept if candidate.state.done]
        parents = _parents(kept, n, c)
        candidates = yield from sample_candidates(
            RolloutRequest(parent, problem.delimiter, next(seeds), steps) for parent in parents
        )
        children: dict[PartialAnswer, tuple[Candidate, PartialAnswer]] = {}
        for candidate, parent in zip(candidates, parents):
            children.setdefault(candidate.state, (candidate, parent))
        # the verifier reads the prompt in the same row as the first steps
        new_states = list(children) if values else [problem.root, *children]
        values.update(zip(new_states, (yield from score_states(new_states))))
        scored = [
            reward.score(candidate, values[candidate.state], values[parent])
            for candidate, parent in children.values()
        ]
        ranked = sorted([*complete, *scored], key=_reward, reverse=True)
        kept = [candidate.keep() for candidate in ranked[:n]]
        rounds.append((*kept, *ranked[n:]))
    return SearchResult(max(kept, key=_value).keep(), tuple(kept), tuple(rounds))


def _reward(candidate: Candidate) -> float:
    return candidate.score


def _value(candidate: Candidate) -> float:
    return candidate.q or 0.0


def _parents(kept: Sequence[Candidate], n: int, c: int) -> list[PartialAnswer]:
    """The parent of each draw: `c` for each of `n` slots without a complete answer, dealt
    round-robin over the unfinished states, the best first.
    """
    states = [candidate.state for candidate in kept if not candidate.state.done]
    slots = n - (len(kept) - len(states))
    return [states[slot % len(states)] for slot in range(slots) for _ in range(c)]
