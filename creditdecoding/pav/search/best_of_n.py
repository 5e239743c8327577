"""Choosing among whole answers drawn independently: by a verifier's word on the end, by vote, by
the model's own certainty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM
from creditdecoding.pav.sampler import RolloutRequest
from creditdecoding.pav.search.driver import Candidate, Choice, Problem, Search, draw, kept, rate
from creditdecoding.tasks.base import Task, final_answer
from creditdecoding.tasks.custom import normalize_answer


@dataclass(frozen=True)
class SampledAnswer:
    """What is known of a whole answer: what it votes for, its log-probability [nats] and tokens,
    and Q^pi where a verifier rated it.
    """

    vote: str
    logprob: float
    tokens: int
    q: float = 0.0


Pick = Callable[[Sequence[SampledAnswer]], int]
"""The place of the answer to give."""


def first(samples: Sequence[SampledAnswer]) -> int:
    """The first one drawn."""
    return 0


def best(samples: Sequence[SampledAnswer]) -> int:
    """The one a verifier of whole answers finds likeliest to be right."""
    return _most([sample.q for sample in samples])


def majority(samples: Sequence[SampledAnswer]) -> int:
    """The first one with the answer that most have; of answers that equally many have, the first
    seen.
    """
    return _voted(samples, lambda sample: 1.0)


def weighted(samples: Sequence[SampledAnswer]) -> int:
    """The first one with the answer whose samples have the greatest Q^pi together."""
    return _voted(samples, lambda sample: sample.q)


def certainty(samples: Sequence[SampledAnswer]) -> int:
    """The one with the greatest sum of log-probabilities, each of a token when it was written: the
    likeliest.
    """
    return _most([sample.logprob for sample in samples])


def certainty_mean(samples: Sequence[SampledAnswer]) -> int:
    """The one with the greatest log-probability a token."""
    return _most([sample.logprob / max(1, sample.tokens) for sample in samples])


def _voted(samples: Sequence[SampledAnswer], weight: Callable[[SampledAnswer], float]) -> int:
    sums: dict[str, float] = defaultdict(float)
    for sample in samples:
        sums[sample.vote] += weight(sample)
    return _most([sums[sample.vote] for sample in samples])


def _most(values: Sequence[float]) -> int:
    """The first place of the greatest value."""
    return max(range(len(values)), key=values.__getitem__)


PICKS: Mapping[str, Pick] = {
    "single": first,
    "best_of_n": best,
    "majority": majority,
    "weighted": weighted,
    "certainty": certainty,
    "certainty_mean": certainty_mean,
}
JUDGED = ("best_of_n", "weighted")
"""Those that need a verifier."""


def sampled(problem: Problem, n: int, pick: Pick, judged: bool) -> Search:
    """`n` whole answers, one of them picked; rated at their ends first where the pick is `judged`."""
    seeds = problem.seeds()
    drawn = yield from draw(
        RolloutRequest(problem.root, problem.delimiter, next(seeds)) for _ in range(n)
    )
    if judged:
        ends = dict.fromkeys(one.state for one in drawn)
        q = dict(zip(ends, (yield from rate(ends))))
        drawn = [replace(one, q=q[one.state], score=q[one.state]) for one in drawn]
    samples = [sample_of(one, problem) for one in drawn]
    at = pick(samples)
    found = tuple(kept(one) if place == at else one for place, one in enumerate(drawn))
    return Choice(found[at], found, (found,))


def sample_of(candidate: Candidate, problem: Problem) -> SampledAnswer:
    """What is known of a drawn answer."""
    vote = (
        repr(candidate.state.written)
        if problem.vote is None
        else problem.vote(candidate.state.written)
    )
    return SampledAnswer(vote, candidate.logprob, candidate.tokens, candidate.q or 0.0)


def answer_extractor(
    family: Task | None, lm: LM, generation: GenerationConfig
) -> Callable[[Sequence[int]], str]:
    """What ids of an answer vote for: what the family says the answer is, else what follows the
    last "Answer:", else the whole text.
    """
    read = (
        family.extract_answer
        if family is not None and family.extract_answer is not None
        else final_answer
    )

    def vote(ids: Sequence[int]) -> str:
        text = lm.text(ids, generation)
        found = read(text)
        return normalize_answer(text) if found is None else found

    return vote
