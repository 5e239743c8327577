"""What searches return: candidates, the chosen answer, and what the search cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from creditdecoding.pav.driver import Sample, Score, Search
from creditdecoding.pav.sampler import Cost, Pass, Rollout, RolloutRequest
from creditdecoding.pav.steps import PartialAnswer


@dataclass(frozen=True)
class Candidate:
    """A state that a search reached.

    `q` is Q^pi and `advantage` A^mu if a verifier scored it, `score` the effective reward. `kept`
    candidates stay in the search. `logprob` [nats], `tokens` and `passes` are those of the rollout
    that wrote its last part.
    """

    state: PartialAnswer
    q: float | None = None
    advantage: float | None = None
    score: float = 0.0
    logprob: float = 0.0
    tokens: int = 0
    passes: tuple[Pass, ...] = ()
    kept: bool = False

    @classmethod
    def from_rollout(cls, rollout: Rollout) -> Candidate:
        """A candidate that is not scored yet."""
        return cls(
            rollout.state,
            logprob=rollout.logprob,
            tokens=rollout.cost.tokens,
            passes=rollout.passes,
        )

    def keep(self) -> Candidate:
        """The same candidate, marked as kept."""
        return replace(self, kept=True)


@dataclass(frozen=True)
class Spent:
    """The cost of a search: the policy's and the verifier's part, and the seconds of both.

    Seconds of passes and scores that several searches share are divided among them.
    """

    policy: Cost = Cost()
    verifier: Cost = Cost()
    seconds: float = 0.0
    verifier_seconds: float = 0.0

    @property
    def sequences(self) -> int:
        """Sequence-forwards of policy and verifier together."""
        return self.policy.sequences + self.verifier.sequences


@dataclass(frozen=True)
class SearchResult:
    """The answer, the finished candidates it was chosen from, all candidates by round, the cost."""

    answer: Candidate
    finished: tuple[Candidate, ...]
    rounds: tuple[tuple[Candidate, ...], ...] = ()
    spent: Spent = Spent()


def sample_candidates(requests: Iterable[RolloutRequest]) -> Search[list[Candidate]]:
    """Inside a search: the candidates that rollouts reach, in the order of the requests."""
    rollouts: list[Rollout] = yield Sample(tuple(requests))
    return [Candidate.from_rollout(rollout) for rollout in rollouts]


def score_states(states: Iterable[PartialAnswer]) -> Search[list[float]]:
    """Inside a search: Q^pi of states, in their order."""
    values: list[float] = yield Score(tuple(states))
    return values
