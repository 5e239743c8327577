"""Searches led by a verifier's word on steps: a beam, and drafts that are cut and drawn again.

Both rank states by the effective reward Q^pi + alpha * A^mu, where mu is Best-of-K of the same Q, and choose the answer by Q^pi alone
(arXiv 2410.08146, sections 3 and 4). Leaves to others: running many at once (rounds.py), names and options (search.py).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from creditdecoding.verifier.model import advantage
from creditdecoding.verifier.rounds import Candidate, Choice, Problem, Ratings, Search, draw, kept, rate
from creditdecoding.verifier.sampler import Ask
from creditdecoding.verifier.steps import State


@dataclass(frozen=True)
class Reward:
    """Q^pi + `alpha` * A^mu of the Best-of-`k` prover."""

    alpha: float
    k: int

    def of(self, candidate: Candidate, q: float, parent: float) -> Candidate:
        """The candidate with its worth, its Q^pi being `q` and that of the state before it `parent`."""
        gain = advantage(parent, q, self.k)
        return replace(candidate, q=q, advantage=gain, score=q + self.alpha * gain)


def _worth(candidate: Candidate) -> float:
    return candidate.score


def _q(candidate: Candidate) -> float:
    return candidate.q or 0.0


def beam(problem: Problem, n: int, c: int, reward: Reward) -> Search:
    """Beam search over steps: `c` next steps drawn from each of `n` elements, the best `n` different states kept, until all are complete.

    It begins as `n` copies of the prompt. Places of the beam without a state of their own draw from the best ones there are, so that every
    round draws `c` a place that is not complete; a complete answer keeps its place while it is among the best.
    """
    seeds, rounds = problem.seeds(), list[tuple[Candidate, ...]]()
    (first,) = yield from rate([problem.root])
    elements = [Candidate(problem.root, first)]
    while opened := [each for each in elements if not each.state.done]:
        complete = [each for each in elements if each.state.done]
        parents = _dealt(opened, n - len(complete), c)
        drawn = yield from draw(Ask(parent.state, problem.delimiter, next(seeds), 1) for parent in parents)
        grown: dict[State, tuple[Candidate, float]] = {}
        for one, parent in zip(drawn, parents):
            grown.setdefault(one.state, (one, _q(parent)))
        qs = yield from rate(grown)
        ranked = sorted([*complete, *(reward.of(one, q, before) for (one, before), q in zip(grown.values(), qs))], key=_worth, reverse=True)
        elements = [kept(each) for each in ranked[:n]]
        rounds.append((*elements, *ranked[n:]))
    return Choice(kept(max(elements, key=_q)), tuple(elements), tuple(rounds))


def _dealt(elements: Sequence[Candidate], places: int, each: int) -> list[Candidate]:
    """Whom to draw from: `each` times `places`, dealt over the elements, the best first."""
    return [elements[place % len(elements)] for place in range(places) for _ in range(each)]


@dataclass
class _Front:
    """A state that drafts can begin at: the verifier's word on it and on a state before it, and how the drafts from here ended."""

    state: State
    q: float
    before: float
    ends: float = 0.0
    drafts: int = 0

    def worth(self, reward: Reward) -> float:
        """The effective reward, the verifier's word weighing as much as one draft."""
        return reward.of(Candidate(self.state), (self.q + self.ends) / (1 + self.drafts), self.before).score


@dataclass
class _Pit:
    """Where a draft went wrong, found by halving: after `low` steps it was worth no less than where it began, after `high` it was."""

    way: Sequence[State]
    low: int
    high: int

    @property
    def open(self) -> bool:
        return self.high - self.low > 1

    @property
    def middle(self) -> State:
        return self.way[(self.low + self.high) // 2]

    def told(self, fell: bool) -> None:
        """Take up whether it had fallen in the middle."""
        middle = (self.low + self.high) // 2
        self.low, self.high = (self.low, middle) if fell else (middle, self.high)


def redraft(problem: Problem, n: int, c: int, reward: Reward) -> Search:
    """`n` whole answers, `c` a round; each begins at the best of the states that were rated so far.

    A diffusion model writes a whole answer in few passes, so that nothing is thrown away as behind a beam's steps. The verifier rates its end;
    in a draft that is worth less at its end than where it began, the step that made it so is found by halving. A state is worth the effective
    reward of the mean of its Q^pi and of the Q^pi of the answers drafted from it, so that one that was overrated is left after some drafts.
    """
    seeds, known, drafts, rounds = problem.seeds(), dict[State, float](), list[Candidate](), list[tuple[Candidate, ...]]()
    yield from _learn(known, [problem.root])
    fronts = {problem.root: _Front(problem.root, known[problem.root], known[problem.root])}
    while len(drafts) < n:
        best = sorted(fronts.values(), key=lambda front: (front.worth(reward), front.state.depth), reverse=True)
        begun = [best[place % len(best)] for place in range(min(c, n - len(drafts)))]
        drawn = yield from draw(Ask(front.state, problem.delimiter, next(seeds)) for front in begun)
        yield from _learn(known, [one.state for one in drawn])
        for one, front in zip(drawn, begun):
            front.ends, front.drafts = front.ends + known[one.state], front.drafts + 1
        seen = [kept(reward.of(one, known[one.state], front.q)) for one, front in zip(drawn, begun)]
        drafts += seen
        rounds.append(tuple(seen))
        if len(drafts) < n:
            yield from _pits(known, fronts, [(one.state, front) for one, front in zip(drawn, begun) if known[one.state] < front.q])
    return Choice(max(drafts, key=_q), tuple(drafts), tuple(rounds))


def _pits(known: dict[State, float], fronts: dict[State, _Front], failed: Sequence[tuple[State, _Front]]) -> Generator[Ratings, list[Any], None]:
    """Rate states of drafts that fell below where they began, until it is known at which step; they become fronts."""
    pits = [(front, _Pit(whole.prefixes, front.state.depth, whole.depth)) for whole, front in failed]
    while looked := [(front, pit) for front, pit in pits if pit.open]:
        yield from _learn(known, [pit.middle for _, pit in looked])
        for front, pit in looked:
            state = pit.middle
            fronts.setdefault(state, _Front(state, known[state], known[pit.way[pit.low]]))
            pit.told(known[state] < front.q)


def _learn(known: dict[State, float], states: Sequence[State]) -> Generator[Ratings, list[Any], None]:
    """Have what is not known yet rated."""
    fresh = [state for state in dict.fromkeys(states) if state not in known]
    known.update(zip(fresh, (yield from rate(fresh))))
