"""Search at test time, by name: a beam over steps led by process advantages, and what it is held
against.

    config = SearchConfig("beam", n=4)
    problem = Problem(tuple(lm.encode("...")), delimiter=".")
    for place, found in search(config, [problem], Sampler(lm, GenerationConfig(temperature=1.0)),
    verifier):
        print(lm.vocab.decode(found.choice.answer.state.written), found.spent.sequences)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from creditdecoding.errors import OptionError
from creditdecoding.pav.sampler import RolloutRequest, Sampler
from creditdecoding.pav.search.beam import Reward, beam, redraft
from creditdecoding.pav.search.best_of_n import JUDGED, PICKS, sampled
from creditdecoding.pav.search.driver import Found, Problem, Search, ValueModel, run
from creditdecoding.pav.search.options import KNOBS, SearchConfig

_BATCHES = 4  # rows of searches under way, in batches: so that passes stay full while some searches end their rounds


@dataclass(frozen=True)
class Method:
    """A search by name: how it begins, whether it asks a verifier, how many rows a round of it has."""

    begin: Callable[[SearchConfig, Problem], Search]
    judged: bool
    width: Callable[[SearchConfig], int]


def _sampled(name: str) -> Method:
    judged = name in JUDGED
    return Method(
        lambda o, problem: sampled(problem, answers(o), PICKS[name], judged), judged, answers
    )


def answers(config: SearchConfig) -> int:
    """How many whole answers a method that chooses among such draws."""
    return config.n if "n" in KNOBS[config.method] else 1


METHODS: Mapping[str, Method] = {
    "beam": Method(
        lambda o, problem: beam(problem, o.n, o.c, Reward(o.alpha, o.k), o.steps),
        True,
        lambda o: o.n * o.c,
    ),
    "beam_q": Method(
        lambda o, problem: beam(problem, o.n, o.c, Reward(0.0, 1), o.steps),
        True,
        lambda o: o.n * o.c,
    ),
    "redraft": Method(
        lambda o, problem: redraft(problem, o.n, o.c, Reward(o.alpha, o.k)),
        True,
        lambda o: min(o.n, o.c),
    ),
    **{name: _sampled(name) for name in PICKS},
}


def search(
    config: SearchConfig,
    problems: Sequence[Problem],
    sampler: Sampler,
    judge: ValueModel | None = None,
) -> Iterator[tuple[int, Found]]:
    """Places of the problems and what was found, in the order in which searches end; what is found
    for one does not depend on the others.

    Raises `OptionError` where a verifier is missing, draws would all be alike, or the candidates of
    a step do not fit into memory.
    """
    method = METHODS[config.method]
    check(config, problems, sampler)
    if method.judged and judge is None:
        raise OptionError(
            f"{config.method} asks a verifier",
            hint="Train one with: credit pav train; or choose majority or certainty.",
        )
    at_once = max(1, _BATCHES * sampler.batch_size // method.width(config))
    yield from run((method.begin(config, problem) for problem in problems), sampler, judge, at_once)


def check(config: SearchConfig, problems: Sequence[Problem], sampler: Sampler) -> None:
    """Refuse what `search` cannot do, before anything is drawn. Raises `OptionError`."""
    method = METHODS[config.method]
    width = method.width(config)
    if width > 1 and sampler.generation.temperature == 0:
        raise OptionError(
            "at temperature 0 all candidates are alike",
            hint="Set a temperature above 0, or choose the method single.",
        )
    if "c" in KNOBS[config.method] and problems:
        longest = max(problems, key=lambda problem: len(problem.prompt))
        room = sampler.capacity(RolloutRequest(longest.root, longest.delimiter, 0))
        if room is not None and width > room:
            what, hint = (
                "the candidates of a step do not fit into memory together",
                "Lower n or c, shorten gen_length, or give more memory.",
            )
            raise OptionError(
                what,
                given=f"n {config.n} * c {config.c} = {width:,} rows",
                allowed=f"{room:,} rows at most",
                hint=hint,
            )
