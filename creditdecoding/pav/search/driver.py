"""Many searches at once: each says what it wants drawn or rated next, and what all of them want
shares the engine's passes.

A search is a generator: it yields `Draws` or `Ratings`, is sent what came of them, and returns a
`Choice`. So it is written as if it were
alone, and finds and costs what it does alone: where the sampler shares passes, what draws of one
wish have in common counts once, whatever
else is under way (it also runs once, if a batch holds the wish).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from creditdecoding.pav.sampler import Cost, RolloutRequest, Sampler
from creditdecoding.pav.search.costs import Bought, Pass, policy_cost, verifier_cost
from creditdecoding.pav.steps import Delimiter, PartialAnswer
from creditdecoding.trace import Trace


class ValueModel(Protocol):
    """What says how likely the policy ends right from each of some states: [n] in (0, 1)."""

    def q(self, states: Sequence[PartialAnswer]) -> Tensor: ...


@dataclass(frozen=True)
class Problem:
    """Ids of a prompt, what ends a step of its answers, the seed of its draws, and for votes what
    of an answer's ids is the answer.
    """

    prompt: tuple[int, ...]
    delimiter: Delimiter
    seed: int = 0
    vote: Callable[[Sequence[int]], str] | None = None

    @property
    def root(self) -> PartialAnswer:
        """Nothing written yet."""
        return PartialAnswer(self.prompt)

    def seeds(self) -> Iterator[int]:
        """Seeds without end, others for another problem."""
        drawn = random.Random(repr((self.seed, self.prompt)))
        return iter(lambda: drawn.getrandbits(62), None)


@dataclass(frozen=True)
class Candidate:
    """A state a search came to: its Q^pi and A^mu where a verifier rated it, the effective reward,
    whether it was kept.

    `logprob` [nats], `tokens` and `passes` are those of the draw that wrote its last part.
    """

    state: PartialAnswer
    q: float | None = None
    advantage: float | None = None
    score: float = 0.0
    logprob: float = 0.0
    tokens: int = 0
    passes: tuple[Pass, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Choice:
    """What a search ends with: the answer, what it was chosen from, and what was looked at round by
    round.
    """

    answer: Candidate
    finished: tuple[Candidate, ...]
    rounds: tuple[tuple[Candidate, ...], ...] = ()


@dataclass(frozen=True)
class Spent:
    """What a search cost: the policy's part, the verifier's, and the seconds of both, of shared
    passes by its share of the sequences.
    """

    policy: Cost = Cost()
    verifier: Cost = Cost()
    seconds: float = 0.0
    verifier_seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        seconds, verifier = (
            self.seconds + other.seconds,
            self.verifier_seconds + other.verifier_seconds,
        )
        return Spent(self.policy + other.policy, self.verifier + other.verifier, seconds, verifier)

    @property
    def sequences(self) -> int:
        """Sequence-forwards of policy and verifier together."""
        return self.policy.sequences + self.verifier.sequences


@dataclass(frozen=True)
class Found:
    """A search's choice and what it cost."""

    choice: Choice
    spent: Spent


@dataclass(frozen=True)
class Sample:
    """A wish: continue these."""

    asks: tuple[RolloutRequest, ...]


@dataclass(frozen=True)
class Score:
    """A wish: say what these are worth."""

    states: tuple[PartialAnswer, ...]


Search = Generator[Sample | Score, list[Any], Choice]


def draw(asks: Iterable[RolloutRequest]) -> Generator[Sample, list[Any], list[Candidate]]:
    """Inside a search: the states that asks became, in the order of the asks, not rated yet."""
    wanted = tuple(asks)
    return (yield Sample(wanted)) if wanted else []


def rate(states: Iterable[PartialAnswer]) -> Generator[Score, list[Any], list[float]]:
    """Inside a search: Q^pi of states."""
    wanted = tuple(states)
    return (yield Score(wanted)) if wanted else []


@dataclass
class _Live:
    """A search under way, its wish, and what it cost so far."""

    search: Search
    wish: Sample | Score | None = None
    spent: Spent = field(default_factory=Spent)
    choice: Choice | None = None

    def send(self, reply: list[Any] | None) -> None:
        """Go on to the next wish, or to the end."""
        try:
            self.wish = next(self.search) if reply is None else self.search.send(reply)
        except StopIteration as stop:
            self.wish, self.choice = None, stop.value


def run(
    searches: Iterable[Search], sampler: Sampler, judge: ValueModel | None, at_once: int
) -> Iterator[tuple[int, Found]]:
    """Places and results of searches as they end, `at_once` of them under way."""
    waiting, live = iter(enumerate(searches)), dict[int, _Live]()
    while True:
        while len(live) < at_once and (one := next(waiting, None)) is not None:
            live[one[0]] = _Live(one[1])
            live[one[0]].send(None)
        if not live:
            return
        for place, each in [*live.items()]:
            if each.choice is not None:
                del live[place]
                yield place, Found(each.choice, each.spent)
        rating = [each for each in live.values() if isinstance(each.wish, Score)]
        if rating:
            _rate(rating, judge)
        drawing = [each for each in live.values() if isinstance(each.wish, Sample)]
        if drawing:
            _draw(drawing, sampler)


def rated(judge: ValueModel, states: Sequence[PartialAnswer]) -> tuple[list[float], float]:
    """Q^pi of states, and the seconds it took."""
    began = time.perf_counter()
    found: list[float] = judge.q(states).tolist()
    return found, time.perf_counter() - began


def _rate(live: Sequence[_Live], judge: ValueModel | None) -> None:
    assert judge is not None, "a search that asks a verifier is not begun without one"
    wishes = [each.wish.states for each in live if isinstance(each.wish, Score)]
    values, seconds = rated(judge, [state for states in wishes for state in states])
    reply, costs = iter(values), [verifier_cost(states) for states in wishes]
    whole = sum(cost.sequences for cost in costs)
    for each, states, cost in zip(live, wishes, costs):
        each.spent += Spent(verifier=cost, verifier_seconds=seconds * cost.sequences / whole)
        each.send([next(reply) for _ in states])


def _draw(live: Sequence[_Live], sampler: Sampler) -> None:
    wishes = [each.wish.asks for each in live if isinstance(each.wish, Sample)]
    asks = [ask for wish in wishes for ask in wish]
    replies: list[Candidate] = [Candidate(ask.state) for ask in asks]
    began, guided = time.perf_counter(), sampler.generation.cfg_scale > 0
    for place, drawn in sampler.draw(asks):
        passes = tuple(
            _passes(asks[place].state, drawn.trace, 1 + guided, -1 if sampler.share else place)
        )
        replies[place] = Candidate(
            drawn.state, logprob=drawn.logprob, tokens=drawn.cost.tokens, passes=passes
        )
    seconds = time.perf_counter() - began
    reply = iter(replies)
    parts = [[next(reply) for _ in wish] for wish in wishes]
    costs = [policy_cost(Bought(one.passes, one.tokens) for one in part) for part in parts]
    sequences = sum(cost.sequences for cost in costs)
    for each, part, cost in zip(live, parts, costs):
        each.spent += Spent(policy=cost, seconds=seconds * cost.sequences / sequences)
        each.send(part)


def _passes(state: PartialAnswer, trace: Trace, sequences: int, alone: int) -> Iterator[Pass]:
    """The passes of a draw; those of draws with the same `alone` are the same as long as they write
    the same.
    """
    key = hash((alone, state.prompt, state.written))
    for step in trace.steps:
        yield Pass(key, sequences, step.computed * sequences)
        key = hash((key, *step.commits().items(), *step.revoked))


def kept(candidate: Candidate) -> Candidate:
    """The candidate, marked as kept."""
    return replace(candidate, kept=True)
