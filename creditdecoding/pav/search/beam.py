"""Searches led by a verifier's word on steps: a beam, and drafts that are cut and drawn again.

Both rank states by the effective reward Q^pi + alpha * A^mu, where mu is Best-of-K of the same Q,
and choose the answer by Q^pi alone
(arXiv 2410.08146, sections 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from creditdecoding.pav.sampler import RolloutRequest
from creditdecoding.pav.search.driver import Candidate, Choice, Problem, Search, draw, kept, rate
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import advantage


@dataclass(frozen=True)
class Reward:
    """Q^pi + `alpha` * A^mu of the Best-of-`k` prover."""

    alpha: float
    k: int

    def of(self, candidate: Candidate, q: float, parent: float) -> Candidate:
        """The candidate with its worth, its Q^pi being `q` and that of the state before it
        `parent`.
        """
        gain = advantage(parent, q, self.k)
        return replace(candidate, q=q, advantage=gain, score=q + self.alpha * gain)


def _worth(candidate: Candidate) -> float:
    return candidate.score


def _q(candidate: Candidate) -> float:
    return candidate.q or 0.0


def beam(problem: Problem, n: int, c: int, reward: Reward, steps: int = 1) -> Search:
    """Beam search: `c` next steps (`steps` at a time) drawn from each of `n` elements, the best `n`
    different states kept, until all are complete.

    It begins as `n` copies of the prompt. Places of the beam without a state of their own draw from
    the best ones there are, so that every
    round draws `c` a place that is not complete; a complete answer keeps its place while it is
    among the best.
    """
    seeds, known, rounds = (
        problem.seeds(),
        dict[PartialAnswer, float](),
        list[tuple[Candidate, ...]](),
    )
    elements = [Candidate(problem.root)]
    while opened := [each for each in elements if not each.state.done]:
        complete = [each for each in elements if each.state.done]
        parents = _dealt(opened, n - len(complete), c)
        drawn = yield from draw(
            RolloutRequest(parent.state, problem.delimiter, next(seeds), steps)
            for parent in parents
        )
        grown: dict[PartialAnswer, tuple[Candidate, PartialAnswer]] = {}
        for one, parent in zip(drawn, parents):
            grown.setdefault(one.state, (one, parent.state))
        fresh = (
            [*grown] if known else [problem.root, *grown]
        )  # a state and those that continue it are read together
        known.update(zip(fresh, (yield from rate(fresh))))
        ranked = sorted(
            [
                *complete,
                *(
                    reward.of(one, known[one.state], known[before])
                    for one, before in grown.values()
                ),
            ],
            key=_worth,
            reverse=True,
        )
        elements = [kept(each) for each in ranked[:n]]
        rounds.append((*elements, *ranked[n:]))
    return Choice(kept(max(elements, key=_q)), tuple(elements), tuple(rounds))


def _dealt(elements: Sequence[Candidate], places: int, each: int) -> list[Candidate]:
    """Whom to draw from: `each` times `places`, dealt over the elements, the best first."""
    return [elements[place % len(elements)] for place in range(places) for _ in range(each)]


@dataclass
class _Front:
    """A state that drafts can begin at: the verifier's word on it and on the state before it, and
    how the drafts from here ended.
    """

    state: PartialAnswer
    q: float = 0.0
    before: float = 0.0
    ends: float = 0.0
    drafts: int = 0

    def worth(self, reward: Reward) -> float:
        """The effective reward, the verifier's word weighing as much as one draft."""
        return reward.of(
            Candidate(self.state), (self.q + self.ends) / (1 + self.drafts), self.before
        ).score


def redraft(problem: Problem, n: int, c: int, reward: Reward) -> Search:
    """`n` whole answers, `c` a round; each begins at the best state that any answer so far went
    through.

    A diffusion model writes a whole answer in few passes, so that nothing is thrown away as behind
    a beam's steps, and a verifier rates all the
    states it went through in one sequence: what went wrong is cut off before the step that did,
    because the states behind it are worth little.
    A state is worth the effective reward of the mean of its Q^pi and of the Q^pi of the answers
    drafted from it, so that one that was
    overrated is left after some drafts.
    """
    seeds, known, drafts, rounds = (
        problem.seeds(),
        dict[PartialAnswer, float](),
        list[Candidate](),
        list[tuple[Candidate, ...]](),
    )
    root = _Front(problem.root)
    fronts = {problem.root: root}
    while len(drafts) < n:
        best = sorted(
            fronts.values(),
            key=lambda front: (front.worth(reward), front.state.depth),
            reverse=True,
        )
        begun = [best[place % len(best)] for place in range(min(c, n - len(drafts)))]
        drawn = yield from draw(
            RolloutRequest(front.state, problem.delimiter, next(seeds)) for front in begun
        )
        fresh = [
            state
            for state in dict.fromkeys(state for one in drawn for state in one.state.prefixes)
            if state not in known
        ]
        known.update(zip(fresh, (yield from rate(fresh))))
        root.q = root.before = known[problem.root]
        for before, state in (pair for one in drawn for pair in pairwise(one.state.prefixes)):
            if not state.done:
                fronts.setdefault(state, _Front(state, known[state], known[before]))
        for one, front in zip(drawn, begun):
            front.ends, front.drafts = front.ends + known[one.state], front.drafts + 1
        rounds.append(
            tuple(
                kept(reward.of(one, known[one.state], front.q)) for one, front in zip(drawn, begun)
            )
        )
        drafts += rounds[-1]
    return Choice(max(drafts, key=_q), tuple(drafts), tuple(rounds))
