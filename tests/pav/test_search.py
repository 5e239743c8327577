"""Searches over steps and their baselines: laws, costs, votes, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from creditdecoding import load
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.pav.problems import Problem, answer_extractor, make_problem
from creditdecoding.pav.sampler import Cost, RolloutRequest, Sampler
from creditdecoding.pav.search.best_of_n import (
    SampledAnswer,
    certainty,
    certainty_mean,
    majority,
    weighted,
)
from creditdecoding.pav.search.compare import answer_record
from creditdecoding.pav.search.methods import METHODS, search
from creditdecoding.pav.search.options import SearchConfig
from creditdecoding.pav.search.result import SearchResult
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.tasks.base import Item
from tests.helpers.searches import FAMILY, HOT, ITEMS, Exact, problems

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm() -> LM:
    """The first embedded model, which is wrong more often."""
    return load("pocket-v1", batch_size=16)


def search_results(
    lm: LM,
    config: SearchConfig,
    batch_size: int = 16,
    judge: object = "",
    given_problems: Sequence[Problem] | None = None,
) -> list[SearchResult]:
    searched = problems(lm) if given_problems is None else given_problems
    result_at = dict(
        search(
            config,
            searched,
            Sampler(lm, HOT, batch_size, share=True),
            Exact(lm) if judge == "" else judge,
        )
    )  # type: ignore[arg-type]
    return [result_at[index] for index in range(len(searched))]


def right(lm: LM, results: Sequence[SearchResult]) -> int:
    return sum(
        FAMILY.score(lm.vocab.decode(one.answer.state.written), item)
        for one, item in zip(results, ITEMS)
    )


def choices(results: Sequence[SearchResult]) -> list[object]:
    """What was found and what it cost in sequences, without seconds."""
    return [
        (
            one.answer.state,
            [answer.state for answer in one.finished],
            one.spent.policy,
            one.spent.verifier,
        )
        for one in results
    ]


@pytest.mark.parametrize("method", ["beam", "best_of_n", "majority"])
def test_a_search_finds_the_same_in_any_company(lm: LM, method: str) -> None:
    config = SearchConfig(method, n=2, **({"c": 2} if method == "beam" else {}))
    together = search_results(lm, config)
    assert choices(search_results(lm, config, batch_size=3)) == choices(together)
    assert choices(search_results(lm, config, given_problems=problems(lm)[1:2])) == choices(
        together[1:2]
    )
    assert choices(search_results(lm, config, given_problems=problems(lm, seed=1)[:1])) != choices(
        together[:1]
    )


@pytest.mark.parametrize("method", ["beam", "majority"])
def test_what_draws_have_in_common_costs_and_runs_once(lm: LM, method: str) -> None:
    """Also where nothing but the count says so: in small batches the engine may run more, never
    less.
    """
    searched, config = (
        problems(lm)[1:],
        SearchConfig(method, n=3, **({} if method == "majority" else {"c": 2})),
    )
    plain, small, wide = (
        Sampler(lm, HOT),
        Sampler(lm, HOT, batch_size=3, share=True),
        Sampler(lm, HOT, batch_size=64, share=True),
    )
    apart, little, shared = (
        [one for _, one in sorted(search(config, searched, sampler, Exact(lm)))]
        for sampler in (plain, small, wide)
    )
    assert [one.answer.state for one in apart] == [one.answer.state for one in shared]
    assert [one.spent.policy.sequences for one in little] == [
        one.spent.policy.sequences for one in shared
    ]
    costs = [sum(one.spent.policy.sequences for one in results) for results in (apart, shared)]
    assert (
        wide._engine.stats.positions
        == sum(one.spent.policy.positions for one in shared)
        <= small._engine.stats.positions
    )
    assert costs[1] < costs[0] == plain._engine.stats.passes


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_what_the_engine_and_the_verifier_ran(lm: LM, method: str) -> None:
    sampler, judge = Sampler(lm, HOT), Exact(lm)
    n = {} if method == "single" else {"n": 2}
    results = [
        one for _, one in search(SearchConfig(method, **n), problems(lm)[:2], sampler, judge)
    ]
    stats = sampler._engine.stats
    assert (
        stats.passes
        == sum(one.spent.policy.passes for one in results)
        == sum(one.spent.policy.sequences for one in results)
    )
    assert stats.positions == sum(one.spent.policy.positions for one in results)
    assert (
        judge.sequences == sum(one.spent.verifier.sequences for one in results)
        and (judge.sequences > 0) == METHODS[method].needs_verifier
    )
    assert all(
        one.spent.seconds > 0
        and one.spent.sequences == one.spent.policy.sequences + one.spent.verifier.sequences
        for one in results
    )


def test_a_beam_of_one_is_sampling_step_by_step(lm: LM) -> None:
    sampler = Sampler(lm, HOT)
    for problem, one in zip(problems(lm), search_results(lm, SearchConfig("beam", n=1, c=1))):
        state, cost, seeds = problem.root, Cost(), problem.seeds()
        while not state.done:
            ((_, drawn),) = sampler.draw([RolloutRequest(state, ".", next(seeds), 1)])
            state, cost = drawn.state, cost + drawn.cost
        assert one.answer.state == state and one.spent.policy == cost
        assert one.spent.verifier.sequences == 2 * len(
            one.rounds
        )  # the prompt is read with the first step


def test_a_beam_that_goes_all_steps_at_once_samples_whole_answers(lm: LM) -> None:
    problem = problems(lm)[0]
    ((_, whole),) = Sampler(lm, HOT).draw(
        [RolloutRequest(problem.root, ".", next(problem.seeds()))]
    )
    (one,) = search_results(lm, SearchConfig("beam", n=1, c=1, steps=99), given_problems=[problem])
    assert (
        one.answer.state == whole.state and one.spent.policy == whole.cost and len(one.rounds) == 1
    )


def test_an_exact_verifier_makes_searches_better_than_one_sample(lm: LM) -> None:
    alone = right(lm, search_results(lm, SearchConfig("single"), judge=None))
    assert alone < len(ITEMS)
    assert right(lm, search_results(lm, SearchConfig("beam", n=4))) == len(ITEMS)


def test_a_beam_keeps_the_best_different_states_and_chooses_by_q_alone(lm: LM) -> None:
    class Odd(Exact):
        """Values without sense, so that Q and the effective reward disagree."""

        def q(self, states: Sequence[PartialAnswer]) -> Tensor:
            return torch.tensor(
                [(hash((state.written, state.done)) % 997 + 1) / 999 for state in states]
            )

    disagreed = 0
    for seed in (0, 1):
        for one in search_results(
            lm,
            SearchConfig("beam", n=2, c=2, alpha=2.0),
            judge=Odd(lm),
            given_problems=problems(lm, seed),
        ):
            for looked in one.rounds:
                states, marked = (
                    [candidate.state for candidate in looked],
                    [candidate for candidate in looked if candidate.kept],
                )
                assert len(states) == len(set(states)) and len(marked) == min(2, len(looked))
                assert min(candidate.score for candidate in marked) >= max(
                    (candidate.score for candidate in looked if not candidate.kept), default=-9.0
                )
                assert all(
                    candidate.score == pytest.approx(candidate.q + 2.0 * candidate.advantage)
                    for candidate in looked
                )  # type: ignore[operator]
            finished, answer = one.finished, one.answer
            assert all(candidate.state.done for candidate in finished) and answer.q == max(
                candidate.q or 0.0 for candidate in finished
            )
            disagreed += answer.score < max(candidate.score for candidate in finished)
    assert disagreed


def test_without_alpha_a_beam_is_one_on_q(lm: LM) -> None:
    plain, bare = (
        search_results(lm, SearchConfig("beam_q", n=2)),
        search_results(lm, SearchConfig("beam", n=2, alpha=0.0)),
    )
    assert choices(plain) == choices(bare)


def test_votes() -> None:
    samples = [
        SampledAnswer("a", -9.0, 3, 0.9),
        SampledAnswer("b", -3.0, 1, 0.2),
        SampledAnswer("b", -4.0, 4, 0.3),
        SampledAnswer("a", -8.0, 2, 0.1),
        SampledAnswer("c", -5.0, 2, 0.8),
    ]
    assert (
        majority(samples) == 0 and majority(samples[1:]) == 0 and majority(samples[2:]) == 0
    )  # ties go to the first seen
    assert majority(samples[:3]) == 1 and weighted(samples) == 0 and weighted(samples[1:]) == 3
    assert certainty(samples) == 1 and certainty_mean(samples) == 2


def test_votes_count_answers_not_texts(lm: LM) -> None:
    vote = answer_extractor(FAMILY, lm, GenerationConfig())
    assert (
        vote(lm.tokenizer.encode("So. Answer: 12"))
        == vote(lm.tokenizer.encode("Thus 3*4=12. Answer: 12."))
        == "12"
    )
    assert vote(lm.tokenizer.encode("It is  12.")) == vote(lm.tokenizer.encode("it is 12")) != "12"


def test_what_cannot_be_searched_is_refused(lm: LM) -> None:
    for bad in (
        {"n": 0},
        {"c": 0},
        {"alpha": -0.1},
        {"k": 0},
        {"method": "bean"},
        {"method": "majority", "alpha": 0.7},
        {"method": "single", "n": 2},
    ):
        with pytest.raises(OptionError):
            SearchConfig(**bad)  # type: ignore[arg-type]
    sampler, searched = Sampler(lm, HOT, memory=0.05), problems(lm)
    with pytest.raises(OptionError, match=r"n 64 \* c 3 = 192 rows.*rows at most"):
        next(search(SearchConfig("beam", n=64), searched, sampler, Exact(lm)))
    assert next(search(SearchConfig("beam", n=1), searched, sampler, Exact(lm)))
    with pytest.raises(OptionError, match="verifier"):
        next(search(SearchConfig("beam"), searched, sampler))
    with pytest.raises(OptionError, match="temperature"):
        next(
            search(SearchConfig("majority"), searched, Sampler(lm, GenerationConfig(gen_length=96)))
        )


def test_a_step_that_fills_the_canvas_is_the_last(lm: LM) -> None:
    problem = problems(lm)[0]
    ((_, whole),) = Sampler(lm, HOT).draw([RolloutRequest(problem.root, ".", 0)])
    short = GenerationConfig(
        decoder="threshold:threshold=0.4", temperature=1.5, gen_length=whole.state.ends[1]
    )
    sampler = Sampler(lm, short)
    for _, one in search(SearchConfig("beam", n=2), problems(lm)[:1], sampler, Exact(lm)):
        assert one.answer.state.done and len(one.answer.state.written) <= short.gen_length


def test_a_stop_string_ends_what_is_judged_voted_for_and_shown(lm: LM) -> None:
    config = dataclasses.replace(HOT, stop=("Answer",))
    judged: list[str] = []

    def note(text: str, item: Item) -> bool:
        judged.append(text)
        return True

    task = dataclasses.replace(FAMILY, score=note)
    problem = make_problem(lm, task, 0, ITEMS[0], dataclasses.replace(config, seed=3))
    sampler = Sampler(lm, config, share=True)
    ((_, result),) = search(SearchConfig("majority", n=2), [problem], sampler)
    text = sampler.text(result.answer.state)
    record = answer_record(result, problem, sampler)
    assert "Answer" not in text and record["text"] == text and judged == [text]
    vote = answer_extractor(FAMILY, lm, config)(result.answer.state.written)
    assert vote == answer_extractor(FAMILY, lm, HOT)(lm.tokenizer.encode(text))
