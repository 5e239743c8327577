"""Search at test time, by name: a beam over steps under a verifier, and its baselines.

config = SearchConfig("beam", n=4)
problem = Problem(tuple(lm.encode("...")), delimiter=".")
sampler = Sampler(lm, GenerationConfig(temperature=1.0))
for index, result in search(config, [problem], sampler, verifier):
    print(lm.vocab.decode(result.answer.state.written), result.spent.sequences)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from creditdecoding.errors import OptionError
from creditdecoding.pav.driver import Search, ValueModel, run_searches
from creditdecoding.pav.problems import Problem
from creditdecoding.pav.sampler import RolloutRequest, Sampler
from creditdecoding.pav.search.beam import EffectiveReward, beam
from creditdecoding.pav.search.best_of_n import PICKS, SCORED_PICKS, best_of_n
from creditdecoding.pav.search.costs import charged
from creditdecoding.pav.search.options import KNOBS, SearchConfig
from creditdecoding.pav.search.result import SearchResult

BATCHES_AT_ONCE = 4
"""Searches run at a time, in batches of rollouts: some wait for others before they are scored."""


@dataclass(frozen=True)
class Method:
    """A search by name: how it starts, whether it needs a verifier, how many rollouts a round."""

    start: Callable[[SearchConfig, Problem], Search[SearchResult]]
    needs_verifier: bool
    width: Callable[[SearchConfig], int]


def _beam(config: SearchConfig, problem: Problem) -> Search[SearchResult]:
    reward = EffectiveReward(config.alpha, config.k)
    return beam(problem, config.n, config.c, reward, config.steps)


def _beam_q(config: SearchConfig, problem: Problem) -> Search[SearchResult]:
    return beam(problem, config.n, config.c, EffectiveReward(0.0, 1), config.steps)


def _beam_width(config: SearchConfig) -> int:
    return config.n * config.c


def answer_count(config: SearchConfig) -> int:
    """How many whole answers are drawn by a method that chooses among such."""
    return config.n if "n" in KNOBS[config.method] else 1


def _pick_method(name: str) -> Method:
    def start(config: SearchConfig, problem: Problem) -> Search[SearchResult]:
        return best_of_n(problem, answer_count(config), PICKS[name], name in SCORED_PICKS)

    return Method(start, name in SCORED_PICKS, answer_count)


METHODS: Mapping[str, Method] = {
    "beam": Method(_beam, True, _beam_width),
    "beam_q": Method(_beam_q, True, _beam_width),
    **{name: _pick_method(name) for name in PICKS},
}


def search(
    config: SearchConfig,
    problems: Sequence[Problem],
    sampler: Sampler,
    value_model: ValueModel | None = None,
) -> Iterator[tuple[int, SearchResult]]:
    """Search every problem; yield (index of the problem, result) as searches finish.

    A result does not depend on the other problems. Raises `OptionError` if a verifier is missing,
    all draws would be equal, or the candidates of a step do not fit into memory.
    """
    method = METHODS[config.method]
    check_search(config, problems, sampler)
    if method.needs_verifier and value_model is None:
        raise OptionError(
            f"{config.method} needs a verifier",
            hint="Train one with: credit pav train; or choose majority or certainty.",
        )
    searches = (charged(method.start(config, problem)) for problem in problems)
    at_once = max(1, BATCHES_AT_ONCE * sampler.batch_size // method.width(config))
    for finished in run_searches(searches, sampler, value_model, at_once):
        spent = replace(
            finished.result.spent,
            seconds=finished.seconds,
            verifier_seconds=finished.score_seconds,
        )
        yield finished.index, replace(finished.result, spent=spent)


def check_search(config: SearchConfig, problems: Sequence[Problem], sampler: Sampler) -> None:
    """Refuse what `search` cannot do, before anything is drawn. Raises `OptionError`."""
    width = METHODS[config.method].width(config)
    if width > 1 and sampler.generation.temperature == 0:
        raise OptionError(
            "at temperature 0 all candidates are alike",
            hint="Set a temperature above 0, or choose the method single.",
        )
    if "c" not in KNOBS[config.method] or not problems:
        return
    longest = max(problems, key=lambda problem: len(problem.prompt))
    capacity = sampler.capacity(RolloutRequest(longest.root, longest.delimiter, 0))
    if capacity is not None and width > capacity:
        raise OptionError(
            "the candidates of a step do not fit into memory together",
            given=f"n {config.n} * c {config.c} = {width:,} rows",
            allowed=f"{capacity:,} rows at most",
            hint="Lower n or c, shorten gen_length, or give more memory.",
        )
