"""Runs many searches at once on one sampler, so that the engine's passes stay full.

A search is a generator. It yields `Sample` or `Score`, is sent the rollouts or the values in the
order in which it asked for them, and returns its result. Label strategies are searches that never
ask for scores. The result of a search does not depend on what else is running.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from creditdecoding.pav.sampler import Rollout, RolloutRequest, Sampler
from creditdecoding.pav.steps import PartialAnswer

Result = TypeVar("Result")


class ValueModel(Protocol):
    """Estimates how likely the policy is to end correctly from partial answers.

    `sequences` counts the sequence-forwards it has run.
    """

    sequences: int

    def q(self, states: Sequence[PartialAnswer]) -> Tensor:
        """Q^pi of each state [n], in (0, 1)."""
        ...


@dataclass(frozen=True)
class Sample:
    """A search asks for these rollouts."""

    requests: tuple[RolloutRequest, ...]


@dataclass(frozen=True)
class Score:
    """A search asks for the values of these states."""

    states: tuple[PartialAnswer, ...]


Search = Generator[Sample | Score, Any, Result]


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """The result of search number `index`, and its share of the seconds of passes and scores."""

    index: int
    result: Result
    seconds: float
    score_seconds: float


class RunningSearch(Generic[Result]):
    """A search with what it waits for and the seconds it has taken."""

    def __init__(self, index: int, search: Search[Result]) -> None:
        self.index = index
        self.search = search
        self.waiting_for: Sample | Score | None = None
        self.rollouts: dict[int, Rollout] = {}
        self.seconds = 0.0
        self.score_seconds = 0.0
        self.finished: Finished[Result] | None = None
        self.advance(None)

    def advance(self, reply: list[Any] | None) -> None:
        """Send a reply and take the next request. Empty requests are answered at once."""
        self.rollouts = {}
        try:
            self.waiting_for = self.search.send(reply)
            while self.waiting_for in (Sample(()), Score(())):
                self.waiting_for = self.search.send([])
        except StopIteration as stop:
            self.waiting_for = None
            self.finished = Finished(self.index, stop.value, self.seconds, self.score_seconds)

    def groups(self) -> Iterator[tuple[int, list[RolloutRequest]]]:
        """Runs of requested rollouts from the same state, each with the position of its first."""
        assert isinstance(self.waiting_for, Sample)
        requests = self.waiting_for.requests
        start = 0
        for end in range(1, len(requests) + 1):
            if end == len(requests) or requests[end].state != requests[start].state:
                yield start, list(requests[start:end])
                start = end

    def add(self, position: int, rollout: Rollout) -> bool:
        """Take a rollout; whether all requested ones are there, so that the search went on."""
        assert isinstance(self.waiting_for, Sample)
        self.rollouts[position] = rollout
        count = len(self.waiting_for.requests)
        if len(self.rollouts) < count:
            return False
        self.advance([self.rollouts[i] for i in range(count)])
        return True


def run_searches(
    searches: Iterable[Search[Result]],
    sampler: Sampler,
    value_model: ValueModel | None = None,
    at_once: int | None = None,
) -> Iterator[Finished[Result]]:
    """Run searches and yield each as it finishes.

    `at_once` limits how many run at a time; by default as many as fill the sampler. Raises
    `ModelError` if a pass fails.
    """
    scheduler = _Scheduler(searches, sampler, value_model, at_once)
    try:
        while scheduler.submit():
            yield from scheduler.step()
    finally:
        scheduler.abort()


class _Scheduler(Generic[Result]):
    """Earlier searches go first. Rollouts from one state start together to share passes. Scores are
    computed when no rollout is running, for all searches that wait for them.
    """

    def __init__(
        self,
        searches: Iterable[Search[Result]],
        sampler: Sampler,
        value_model: ValueModel | None,
        at_once: int | None,
    ) -> None:
        self.source = enumerate(searches)
        self.sampler = sampler
        self.value_model = value_model
        self.at_once = at_once
        self.running = 0
        self.queue: list[tuple[int, int, list[RolloutRequest], RunningSearch[Result]]] = []
        self.in_flight: dict[int, tuple[RunningSearch[Result], int]] = {}
        self.scoring: list[RunningSearch[Result]] = []
        self.finished: list[Finished[Result]] = []

    def submit(self) -> bool:
        """Give the sampler what it has room for; whether there is anything left to do."""
        while self.sampler.free_slots:
            if not self.queue:
                if not self._open_next():
                    break
                continue
            index, start, group, search = self.queue[0]
            free = self.sampler.free_slots
            if len(group) > free and self.in_flight:
                break
            heapq.heappop(self.queue)
            if len(group) > free:
                heapq.heappush(self.queue, (index, start + free, group[free:], search))
            for position, request in enumerate(group[:free], start):
                self.in_flight[self.sampler.submit(request)] = (search, position)
        return bool(self.in_flight or self.scoring or self.finished)

    def step(self) -> list[Finished[Result]]:
        """Run one pass, or score where no pass is left to run; the searches that finished."""
        if self.in_flight:
            self._sample()
        elif self.scoring:
            self._score()
        finished = self.finished
        self.finished = []
        return finished

    def abort(self) -> None:
        """Drop the rollouts that are still running."""
        for number in self.in_flight:
            self.sampler.abort(number)

    def _open_next(self) -> bool:
        if self.at_once is not None and self.running >= self.at_once:
            return False
        for index, search in self.source:
            self.running += 1
            self._dispatch(RunningSearch(index, search))
            return True
        return False

    def _dispatch(self, search: RunningSearch[Result]) -> None:
        """Queue what a search waits for, or note its result."""
        if search.finished is not None:
            self.running -= 1
            self.finished.append(search.finished)
        elif isinstance(search.waiting_for, Score):
            self.scoring.append(search)
        else:
            for start, group in search.groups():
                heapq.heappush(self.queue, (search.index, start, group, search))

    def _sample(self) -> None:
        began = time.perf_counter()
        rollouts = self.sampler.step()
        share = (time.perf_counter() - began) / len(self.in_flight)
        for search, _ in self.in_flight.values():
            search.seconds += share
        for number, rollout in rollouts:
            search, position = self.in_flight.pop(number)
            if search.add(position, rollout):
                self._dispatch(search)

    def _score(self) -> None:
        assert self.value_model is not None, "a search that asks for scores needs a value model"
        searches = self.scoring
        self.scoring = []
        requests = [search.waiting_for for search in searches]
        states = [state for score in requests if isinstance(score, Score) for state in score.states]
        began = time.perf_counter()
        values = iter(self.value_model.q(states).tolist())
        share = (time.perf_counter() - began) / len(states)
        for search, score in zip(searches, requests):
            assert isinstance(score, Score)
            search.score_seconds += share * len(score.states)
            search.advance([next(values) for _ in score.states])
            self._dispatch(search)
