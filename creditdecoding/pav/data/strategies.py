"""What to label of a problem, and which answers to draw for it: strategies, as generators that ask
for answers and return labels.

Seeds are hashes of the run's seed, the problem and what is drawn, so that nothing depends on order
or company.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from creditdecoding.pav.data.label_store import Label, ProblemKey
from creditdecoding.pav.data.options import CollectConfig
from creditdecoding.pav.sampler import Rollout, RolloutRequest
from creditdecoding.pav.steps import Delimiter, PartialAnswer


@dataclass(frozen=True)
class Problem:
    """A question: its place in the store, the ids of its prompt, what ends a step, and whether a
    complete answer's ids are right.
    """

    key: ProblemKey
    root: PartialAnswer
    delimiter: Delimiter
    right: Callable[[tuple[int, ...]], bool]

    def asks(self, state: PartialAnswer, what: str, count: int, seed: int) -> list[RolloutRequest]:
        """Draws of the rest of an answer behind `state`; `what` tells draws for one purpose from
        those for another.
        """
        parts = [(seed, *self.key, what, state.written, number) for number in range(count)]
        return [RolloutRequest(state, self.delimiter, seed_of(*part)) for part in parts]

    def label(self, state: PartialAnswer, found: Iterable[Rollout]) -> Label:
        """The label of a state with these continuations."""
        verdicts = [self.right(drawn.state.written) for drawn in found]
        return Label(*self.key, state, sum(verdicts), len(verdicts))

    def outcomes(self, answers: Iterable[PartialAnswer]) -> list[Label]:
        """The labels of complete answers: right or not, as often as each was drawn."""
        return [
            Label(*self.key, answer, times * self.right(answer.written), times)
            for answer, times in Counter(answers).items()
        ]


Plan = Generator[list[RolloutRequest], list[Rollout], list[Label]]
"""Asks for answers, is sent them in the order of the asks, and in the end returns a problem's
labels.
"""


def seed_of(*parts: object) -> int:
    """A seed that is a function of `parts` alone."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 2


def plan(problem: Problem, config: CollectConfig, seed: int) -> Plan:
    """The strategy that `config` names, for one problem. No state is labelled twice."""
    return {"random": _random, "first_pit": _first_pit}[config.strategy](problem, config, seed)


def _random(problem: Problem, config: CollectConfig, seed: int) -> Plan:
    """All prefixes of `n_cov` answers drawn from the prompt, with `n_mc` completions each.

    Every answer drawn from the prompt is labelled too, by whether it is right.
    """
    cover = problem.asks(problem.root, "cover", config.n_cov, seed)
    drawn = yield [*cover, *problem.asks(problem.root, "complete", config.n_mc, seed)]
    answers, rest = [each.state for each in drawn], drawn[config.n_cov :]
    states = [
        *dict.fromkeys(
            prefix
            for answer in answers[: config.n_cov]
            for prefix in answer.prefixes
            if prefix.depth and not prefix.done
        )
    ]
    drawn = yield [
        ask for state in states for ask in problem.asks(state, "complete", config.n_mc, seed)
    ]
    labels = [problem.label(problem.root, rest)]
    labels += [
        problem.label(state, drawn[i * config.n_mc : (i + 1) * config.n_mc])
        for i, state in enumerate(states)
    ]
    return labels + problem.outcomes(answers)


def _first_pit(problem: Problem, config: CollectConfig, seed: int) -> Plan:
    """Prefixes up to the first pit of at most `n_cov` wrong answers to promising prefixes (arXiv
    2410.08146).

    The prompt gets `n_mc` completions. A state is promising if more than `promising` of its
    completions are right. Again and again a wrong
    completion of the promising state labelled last is followed step by step: each of its prefixes
    gets `n_mc` completions of its own, up to
    the first of which none is right, its pit, or up to its end. The states labelled on the way may
    be promising in turn, so that draws go to
    where answers go wrong. Answers to the prompt and those followed are labelled too, by whether
    they are right.
    """
    labels: dict[PartialAnswer, Label] = {}
    answers: list[PartialAnswer] = []
    wrong: list[PartialAnswer] = []

    def take(state: PartialAnswer, drawn: list[Rollout]) -> None:
        label = labels[state] = problem.label(state, drawn)
        if label.value > config.promising:
            wrong.extend(
                reversed([each.state for each in drawn if not problem.right(each.state.written)])
            )

    drawn = yield problem.asks(problem.root, "complete", config.n_mc, seed)
    take(problem.root, drawn)
    answers += [each.state for each in drawn]
    followed: set[PartialAnswer] = set()
    while wrong and len(followed) < config.n_cov:
        answer = wrong.pop()
        if answer in followed:
            continue
        followed.add(answer)
        if answer not in answers:
            answers.append(answer)
        for prefix in answer.prefixes[1:-1]:
            if prefix not in labels:
                drawn = yield problem.asks(prefix, "complete", config.n_mc, seed)
                take(prefix, drawn)
            if not labels[prefix].wins:
                break
    return [*labels.values(), *problem.outcomes(answers)]
