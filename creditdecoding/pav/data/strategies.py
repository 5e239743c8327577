"""What to label of a problem, and which rollouts to draw for it.

A strategy is a search that samples rollouts and returns a problem's labels. Seeds are hashes of the
run's seed, the problem and what is drawn, so labels do not depend on order or on what else runs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from creditdecoding.pav.data.label_store import Label
from creditdecoding.pav.data.options import CollectConfig
from creditdecoding.pav.driver import Sample, Search
from creditdecoding.pav.problems import Problem
from creditdecoding.pav.sampler import Rollout, RolloutRequest
from creditdecoding.pav.steps import PartialAnswer

Strategy = Search[list[Label]]


def seed_of(*parts: object) -> int:
    """A seed that is a function of `parts` alone."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def rollout_requests(
    problem: Problem, state: PartialAnswer, purpose: str, count: int
) -> list[RolloutRequest]:
    """Rollouts from a state to the end; those for another `purpose` have other seeds."""
    parts = (problem.seed, *problem.key, purpose, state.written)
    seeds = [seed_of(*parts, number) for number in range(count)]
    return [RolloutRequest(state, problem.delimiter, seed) for seed in seeds]


def label_state(problem: Problem, state: PartialAnswer, rollouts: Iterable[Rollout]) -> Label:
    """The label of a state with these completions."""
    verdicts = [problem.judge(rollout.state) for rollout in rollouts]
    return Label(*problem.key, state, sum(verdicts), len(verdicts))


def label_answers(problem: Problem, answers: Iterable[PartialAnswer]) -> list[Label]:
    """The labels of complete answers: correct or not, as often as each was drawn."""
    return [
        Label(*problem.key, answer, count * problem.judge(answer), count)
        for answer, count in Counter(answers).items()
    ]


def random_prefixes(problem: Problem, config: CollectConfig) -> Strategy:
    """All prefixes of `n_cov` answers drawn from the prompt, with `n_mc` completions each.

    Every answer drawn from the prompt is labelled as well.
    """
    root = problem.root
    cover = rollout_requests(problem, root, "cover", config.n_cov)
    completions = rollout_requests(problem, root, "complete", config.n_mc)
    rollouts: Sequence[Rollout] = yield Sample((*cover, *completions))
    answers = [rollout.state for rollout in rollouts]
    labels = [label_state(problem, root, rollouts[config.n_cov :])]
    prefixes = (prefix for answer in answers[: config.n_cov] for prefix in answer.prefixes[1:])
    states = list(dict.fromkeys(prefix for prefix in prefixes if not prefix.done))
    rollouts = yield Sample(
        tuple(
            request
            for state in states
            for request in rollout_requests(problem, state, "complete", config.n_mc)
        )
    )
    for number, state in enumerate(states):
        start = number * config.n_mc
        labels.append(label_state(problem, state, rollouts[start : start + config.n_mc]))
    return labels + label_answers(problem, answers)


def first_pit(problem: Problem, config: CollectConfig) -> Strategy:
    """Prefixes up to the first pit of at most `n_cov` wrong answers to promising prefixes.

    The prompt gets `n_mc` completions. A state is promising if more than `promising` of its
    completions are correct. A wrong completion of the promising state labelled last is followed
    step by step: each prefix gets `n_mc` completions, up to the first without a correct one (its
    pit) or to its end. States labelled on the way may be promising in turn, so that rollouts go
    where answers go wrong (arXiv 2410.08146). Answers to the prompt and followed answers are
    labelled as well.
    """
    labels: dict[PartialAnswer, Label] = {}
    wrong: list[PartialAnswer] = []

    def complete_state(state: PartialAnswer) -> Search[list[PartialAnswer]]:
        requests = rollout_requests(problem, state, "complete", config.n_mc)
        rollouts: Sequence[Rollout] = yield Sample(tuple(requests))
        labels[state] = label_state(problem, state, rollouts)
        answers = [rollout.state for rollout in rollouts]
        if labels[state].value > config.promising:
            wrong.extend(answer for answer in reversed(answers) if not problem.judge(answer))
        return answers

    answers = yield from complete_state(problem.root)
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
                yield from complete_state(prefix)
            if not labels[prefix].wins:
                break
    return [*labels.values(), *label_answers(problem, answers)]


STRATEGIES: Mapping[str, Callable[[Problem, CollectConfig], Strategy]] = {
    "random": random_prefixes,
    "first_pit": first_pit,
}
"""Strategies by name. No strategy labels a state twice."""
