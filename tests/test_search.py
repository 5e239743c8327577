"""Searches over steps and their baselines: laws, costs, votes, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from creditdecoding import load
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.tasks import families
from creditdecoding.tasks.base import distinct_items
from creditdecoding.verifier.baselines import Sample, certainty, certainty_mean, majority, voter, weighted
from creditdecoding.verifier.rounds import Found, Problem
from creditdecoding.verifier.sampler import Ask, Cost, Sampler
from creditdecoding.verifier.search import METHODS, SearchConfig, search
from creditdecoding.verifier.steps import State

(FAMILY,) = families("arithmetic")
ITEMS = distinct_items(FAMILY, "dev", 0, 3)
HOT = GenerationConfig(decoder="threshold:threshold=0.4", temperature=1.5, gen_length=96)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=16)


def problems(lm: LM, seed: int = 0) -> list[Problem]:
    return [Problem(tuple(lm.encode(item.prompt)), FAMILY.delimiter, seed, voter(FAMILY, lm)) for item in ITEMS]


class Exact:
    """Knows the answers: 0.9 for the beginning of one, more the further it is, 0.1 for everything else."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.sequences = lm, 0
        self.answers = {tuple(lm.encode(item.prompt)): item.answer for item in ITEMS}

    def q(self, states: Sequence[State]) -> Tensor:
        self.sequences += len(states)
        texts = [(self.lm.words.decode(state.written), self.answers[state.prompt], state.done) for state in states]
        return torch.tensor([0.9 if (whole == text if done else whole.startswith(text)) else 0.1 for text, whole, done in texts])


def found(lm: LM, config: SearchConfig, batch_size: int = 16, judge: object = "", asked: Sequence[Problem] | None = None) -> list[Found]:
    given = problems(lm) if asked is None else asked
    each = dict(search(config, given, Sampler(lm, HOT, batch_size), Exact(lm) if judge == "" else judge))  # type: ignore[arg-type]
    return [each[place] for place in range(len(given))]


def right(lm: LM, results: Sequence[Found]) -> int:
    return sum(FAMILY.score(lm.words.decode(one.choice.answer.state.written), item) for one, item in zip(results, ITEMS))


def choices(results: Sequence[Found]) -> list[object]:
    """What was found and what it cost in sequences, without seconds."""
    return [(one.choice.answer.state, [each.state for each in one.choice.finished], one.spent.policy, one.spent.verifier) for one in results]


@pytest.mark.parametrize("method", ["beam", "redraft", "best_of_n", "majority"])
def test_a_search_finds_the_same_in_any_company(lm: LM, method: str) -> None:
    config = SearchConfig(method, n=2, **({"c": 2} if method in ("beam", "redraft") else {}))
    together = found(lm, config)
    assert choices(found(lm, config, batch_size=3)) == choices(together)
    assert choices(found(lm, config, asked=problems(lm)[1:2])) == choices(together[1:2])
    assert choices(found(lm, config, asked=problems(lm, seed=1)[:1])) != choices(together[:1])


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_what_the_engine_and_the_verifier_ran(lm: LM, method: str) -> None:
    sampler, judge = Sampler(lm, HOT), Exact(lm)
    n = {} if method == "single" else {"n": 2}
    results = [one for _, one in search(SearchConfig(method, **n), problems(lm)[:2], sampler, judge)]
    stats = sampler._engine.stats
    assert stats.passes == sum(one.spent.policy.passes for one in results) == sum(one.spent.policy.sequences for one in results)
    assert stats.positions == sum(one.spent.policy.positions for one in results)
    assert judge.sequences == sum(one.spent.verifier.sequences for one in results) and (judge.sequences > 0) == METHODS[method].judged
    assert all(one.spent.seconds > 0 and one.spent.sequences == one.spent.policy.sequences + one.spent.verifier.sequences for one in results)


def test_a_beam_of_one_is_sampling_step_by_step(lm: LM) -> None:
    sampler = Sampler(lm, HOT)
    for problem, one in zip(problems(lm), found(lm, SearchConfig("beam", n=1, c=1))):
        state, cost, seeds = problem.root, Cost(), problem.seeds()
        while not state.done:
            ((_, drawn),) = sampler.draw([Ask(state, ".", next(seeds), 1)])
            state, cost = drawn.state, cost + drawn.cost
        assert one.choice.answer.state == state and one.spent.policy == cost
        assert one.spent.verifier.sequences == 1 + len(one.choice.rounds)


def test_an_exact_verifier_makes_searches_better_than_one_sample(lm: LM) -> None:
    alone = right(lm, found(lm, SearchConfig("single"), judge=None))
    assert alone < len(ITEMS)
    for method in ("beam", "redraft"):
        assert right(lm, found(lm, SearchConfig(method, n=6))) == len(ITEMS), method


def test_a_beam_keeps_the_best_different_states_and_chooses_by_q_alone(lm: LM) -> None:
    class Odd(Exact):
        """Values without sense, so that Q and the effective reward disagree."""

        def q(self, states: Sequence[State]) -> Tensor:
            return torch.tensor([(hash((state.written, state.done)) % 997 + 1) / 999 for state in states])

    disagreed = 0
    for seed in (0, 1):
        for one in found(lm, SearchConfig("beam", n=3, c=2, alpha=2.0), judge=Odd(lm), asked=problems(lm, seed)):
            for looked in one.choice.rounds:
                states, marked = [each.state for each in looked], [each for each in looked if each.kept]
                assert len(states) == len(set(states)) and len(marked) == min(3, len(looked))
                assert min(each.score for each in marked) >= max((each.score for each in looked if not each.kept), default=-9.0)
                assert all(each.score == pytest.approx(each.q + 2.0 * each.advantage) for each in looked)  # type: ignore[operator]
            finished, answer = one.choice.finished, one.choice.answer
            assert all(each.state.done for each in finished) and answer.q == max(each.q or 0.0 for each in finished)
            disagreed += answer.score < max(each.score for each in finished)
    assert disagreed


def test_without_alpha_a_beam_is_one_on_q(lm: LM) -> None:
    plain, bare = found(lm, SearchConfig("beam_q", n=2)), found(lm, SearchConfig("beam", n=2, alpha=0.0))
    assert choices(plain) == choices(bare)


def test_redraft_spends_its_drafts_and_begins_where_it_was_right(lm: LM) -> None:
    judge = Exact(lm)
    for one in found(lm, SearchConfig("redraft", n=7, c=3), judge=judge):
        assert len(one.choice.finished) == 7 and [len(each) for each in one.choice.rounds] == [3, 3, 1]
        good = judge.q([each.state for each in one.choice.rounds[0]]).tolist()
        if max(good) < 0.5:  # no draft was right: the next one begins at a right state of one, if they have any
            ways = {state for each in one.choice.rounds[0] for state in each.state.prefixes}
            held = max((state for state in ways if judge.q([state])[0] > 0.5), key=lambda state: len(state.written))
            assert any(each.state.written[: len(held.written)] == held.written for each in one.choice.rounds[1])


def test_votes() -> None:
    samples = [Sample("a", -9.0, 3, 0.9), Sample("b", -3.0, 1, 0.2), Sample("b", -4.0, 4, 0.3), Sample("a", -8.0, 2, 0.1), Sample("c", -5.0, 2, 0.8)]
    assert majority(samples) == 0 and majority(samples[1:]) == 0 and majority(samples[2:]) == 0  # ties go to the first seen
    assert majority(samples[:3]) == 1 and weighted(samples) == 0 and weighted(samples[1:]) == 3
    assert certainty(samples) == 1 and certainty_mean(samples) == 2


def test_votes_count_answers_not_texts(lm: LM) -> None:
    vote = voter(FAMILY, lm)
    assert vote(lm.tokenizer.encode("So. Answer: 12")) == vote(lm.tokenizer.encode("Thus 3*4=12. Answer: 12.")) == "12"
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
    sampler, asked = Sampler(lm, HOT, memory=0.05), problems(lm)
    with pytest.raises(OptionError, match=r"n 64 \* c 3 = 192 rows.*rows at most"):
        next(search(SearchConfig("beam", n=64), asked, sampler, Exact(lm)))
    assert next(search(SearchConfig("beam", n=1), asked, sampler, Exact(lm)))
    with pytest.raises(OptionError, match="verifier"):
        next(search(SearchConfig("beam"), asked, sampler))
    with pytest.raises(OptionError, match="temperature"):
        next(search(SearchConfig("majority"), asked, Sampler(lm, GenerationConfig(gen_length=96))))


def test_a_step_that_fills_the_canvas_is_the_last(lm: LM) -> None:
    problem = problems(lm)[0]
    ((_, whole),) = Sampler(lm, HOT).draw([Ask(problem.root, ".", 0)])
    short = GenerationConfig(decoder="threshold:threshold=0.4", temperature=1.5, gen_length=whole.state.ends[1])
    sampler = Sampler(lm, short)
    for _, one in search(SearchConfig("beam", n=2), problems(lm)[:1], sampler, Exact(lm)):
        assert one.choice.answer.state.done and len(one.choice.answer.state.written) <= short.gen_length
