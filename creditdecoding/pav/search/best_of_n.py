"""Choosing among whole answers drawn independently: by a verifier, by vote, by log-probability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True)
class SampledAnswer:
    """A whole answer: what it votes for, log-probability [nats], tokens, Q^pi if it was scored."""

    vote: str
    logprob: float
    tokens: int
    q: float = 0.0


Pick = Callable[[Sequence[SampledAnswer]], int]
"""Chooses an answer; returns its index."""


def first(answers: Sequence[SampledAnswer]) -> int:
    """The first one drawn."""
    return 0


def best(answers: Sequence[SampledAnswer]) -> int:
    """The one with the greatest Q^pi."""
    return _argmax([answer.q for answer in answers])


def majority(answers: Sequence[SampledAnswer]) -> int:
    """The first one with the most frequent answer; of equally frequent answers the first seen."""
    return _vote(answers, lambda answer: 1.0)


def weighted(answers: Sequence[SampledAnswer]) -> int:
    """The first one with the answer whose samples have the greatest sum of Q^pi."""
    return _vote(answers, lambda answer: answer.q)


def certainty(answers: Sequence[SampledAnswer]) -> int:
    """The one with the greatest log-probability, each token at the pass that wrote it."""
    return _argmax([answer.logprob for answer in answers])


def certainty_mean(answers: Sequence[SampledAnswer]) -> int:
    """The one with the greatest log-probability a token."""
    return _argmax([answer.logprob / max(1, answer.tokens) for answer in answers])


def _vote(answers: Sequence[SampledAnswer], weight: Callable[[SampledAnswer], float]) -> int:
    sums: dict[str, float] = defaultdict(float)
    for answer in answers:
        sums[answer.vote] += weight(answer)
    return _argmax([sums[answer.vote] for answer in answers])


def _argmax(values: Sequence[float]) -> int:
    """The first index of the greatest value."""
    return max(range(len(values)), key=values.__getitem__)


PICKS: Mapping[str, Pick] = {
    "single": first,
    "best_of_n": best,
    "majority": majority,
    "weighted": weighted,
    "certainty": certainty,
    "certainty_mean": certainty_mean,
}
SCORED_PICKS = ("best_of_n", "weighted")
"""Those that need a verifier."""


def best_of_n(problem: Problem, n: int, pick: Pick, scored: bool) -> Search[SearchResult]:
    """Draw `n` whole answers and pick one. With `scored`, a verifier scores them first."""
    seeds = problem.seeds()
    candidates = yield from sample_candidates(
        RolloutRequest(problem.root, problem.delimiter, next(seeds)) for _ in range(n)
    )
    if scored:
        states = list(dict.fromkeys(candidate.state for candidate in candidates))
        q = dict(zip(states, (yield from score_states(states))))
        candidates = [
            replace(candidate, q=q[candidate.state], score=q[candidate.state])
            for candidate in candidates
        ]
    picked = pick([_sampled_answer(candidate, problem) for candidate in candidates])
    candidates[picked] = candidates[picked].keep()
    return SearchResult(candidates[picked], tuple(candidates), (tuple(candidates),))


def _sampled_answer(candidate: Candidate, problem: Problem) -> SampledAnswer:
    ids = candidate.state.written
    vote = problem.extract_answer(ids) if problem.extract_answer is not None else repr(ids)
    return SampledAnswer(vote, candidate.logprob, candidate.tokens, candidate.q or 0.0)
