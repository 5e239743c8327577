"""Searches over steps and their baselines: laws, costs, votes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from creditdecoding import load
from creditdecoding.cli import main
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.fingerprint import model_identity
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
from creditdecoding.pav.search.compare import SearchPlan, answer_record, make_problems, run
from creditdecoding.pav.search.costs import verifier_cost, verifier_sequences
from creditdecoding.pav.search.methods import METHODS, search
from creditdecoding.pav.search.options import SearchConfig
from creditdecoding.pav.search.report import (
    CurveEstimate,
    at_equal_accuracy,
    at_equal_compute,
    compare_curves,
    pick_from_pool,
    summarise,
)
from creditdecoding.pav.search.result import SearchResult
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.model import Scorer, Verifier, write_verifier
from creditdecoding.pav.verifier.packing import prefix_chains
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Item, Task, distinct_items

pytestmark = pytest.mark.slow

(FAMILY,) = load_tasks("arithmetic")
ITEMS = distinct_items(FAMILY, "dev", 0, 3)
HOT = GenerationConfig(decoder="threshold:threshold=0.4", temperature=1.5, gen_length=96)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=16)


def problems(lm: LM, seed: int = 0, config: GenerationConfig = HOT) -> list[Problem]:
    generation = dataclasses.replace(config, seed=seed)
    return [make_problem(lm, FAMILY, number, item, generation) for number, item in enumerate(ITEMS)]


class Exact:
    """Knows the answers: 0.9 for the beginning of one, more the further it is, 0.1 for everything
    else.
    """

    def __init__(self, lm: LM) -> None:
        self.lm, self.sequences = lm, 0
        self.answers = {tuple(lm.encode(item.prompt)): item.answer for item in ITEMS}

    def q(self, states: Sequence[PartialAnswer]) -> Tensor:
        self.sequences += 2 * len(prefix_chains(states))
        texts = [
            (self.lm.vocab.decode(state.written), self.answers[state.prompt], state.done)
            for state in states
        ]
        return torch.tensor(
            [
                0.9 if (whole == text if done else whole.startswith(text)) else 0.1
                for text, whole, done in texts
            ]
        )


def found(
    lm: LM,
    config: SearchConfig,
    batch_size: int = 16,
    judge: object = "",
    asked: Sequence[Problem] | None = None,
) -> list[SearchResult]:
    given = problems(lm) if asked is None else asked
    each = dict(
        search(
            config,
            given,
            Sampler(lm, HOT, batch_size, share=True),
            Exact(lm) if judge == "" else judge,
        )
    )  # type: ignore[arg-type]
    return [each[place] for place in range(len(given))]


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
            [each.state for each in one.finished],
            one.spent.policy,
            one.spent.verifier,
        )
        for one in results
    ]


@pytest.mark.parametrize("method", ["beam", "best_of_n", "majority"])
def test_a_search_finds_the_same_in_any_company(lm: LM, method: str) -> None:
    config = SearchConfig(method, n=2, **({"c": 2} if method == "beam" else {}))
    together = found(lm, config)
    assert choices(found(lm, config, batch_size=3)) == choices(together)
    assert choices(found(lm, config, asked=problems(lm)[1:2])) == choices(together[1:2])
    assert choices(found(lm, config, asked=problems(lm, seed=1)[:1])) != choices(together[:1])


@pytest.mark.parametrize("method", ["beam", "majority"])
def test_what_draws_have_in_common_costs_and_runs_once(lm: LM, method: str) -> None:
    """Also where nothing but the count says so: in small batches the engine may run more, never
    less.
    """
    asked, config = (
        problems(lm)[1:],
        SearchConfig(method, n=3, **({} if method == "majority" else {"c": 2})),
    )
    plain, small, wide = (
        Sampler(lm, HOT),
        Sampler(lm, HOT, batch_size=3, share=True),
        Sampler(lm, HOT, batch_size=64, share=True),
    )
    apart, little, shared = (
        [one for _, one in sorted(search(config, asked, sampler, Exact(lm)))]
        for sampler in (plain, small, wide)
    )
    assert [one.answer.state for one in apart] == [one.answer.state for one in shared]
    assert [one.spent.policy.sequences for one in little] == [
        one.spent.policy.sequences for one in shared
    ]
    costs = [sum(one.spent.policy.sequences for one in found) for found in (apart, shared)]
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
    for problem, one in zip(problems(lm), found(lm, SearchConfig("beam", n=1, c=1))):
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
    (one,) = found(lm, SearchConfig("beam", n=1, c=1, steps=99), asked=[problem])
    assert (
        one.answer.state == whole.state and one.spent.policy == whole.cost and len(one.rounds) == 1
    )


def test_an_exact_verifier_makes_searches_better_than_one_sample(lm: LM) -> None:
    alone = right(lm, found(lm, SearchConfig("single"), judge=None))
    assert alone < len(ITEMS)
    assert right(lm, found(lm, SearchConfig("beam", n=4))) == len(ITEMS)


def test_a_beam_keeps_the_best_different_states_and_chooses_by_q_alone(lm: LM) -> None:
    class Odd(Exact):
        """Values without sense, so that Q and the effective reward disagree."""

        def q(self, states: Sequence[PartialAnswer]) -> Tensor:
            return torch.tensor(
                [(hash((state.written, state.done)) % 997 + 1) / 999 for state in states]
            )

    disagreed = 0
    for seed in (0, 1):
        for one in found(
            lm, SearchConfig("beam", n=2, c=2, alpha=2.0), judge=Odd(lm), asked=problems(lm, seed)
        ):
            for looked in one.rounds:
                states, marked = (
                    [each.state for each in looked],
                    [each for each in looked if each.kept],
                )
                assert len(states) == len(set(states)) and len(marked) == min(2, len(looked))
                assert min(each.score for each in marked) >= max(
                    (each.score for each in looked if not each.kept), default=-9.0
                )
                assert all(
                    each.score == pytest.approx(each.q + 2.0 * each.advantage) for each in looked
                )  # type: ignore[operator]
            finished, answer = one.finished, one.answer
            assert all(each.state.done for each in finished) and answer.q == max(
                each.q or 0.0 for each in finished
            )
            disagreed += answer.score < max(each.score for each in finished)
    assert disagreed


def test_without_alpha_a_beam_is_one_on_q(lm: LM) -> None:
    plain, bare = (
        found(lm, SearchConfig("beam_q", n=2)),
        found(lm, SearchConfig("beam", n=2, alpha=0.0)),
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
    ((_, whole),) = Sampler(lm, HOT).draw([RolloutRequest(problem.root, ".", 0)])
    short = GenerationConfig(
        decoder="threshold:threshold=0.4", temperature=1.5, gen_length=whole.state.ends[1]
    )
    sampler = Sampler(lm, short)
    for _, one in search(SearchConfig("beam", n=2), problems(lm)[:1], sampler, Exact(lm)):
        assert one.answer.state.done and len(one.answer.state.written) <= short.gen_length


# Comparing


def plan(**changes: Any) -> SearchPlan:
    methods = ("beam", "beam_q:c=2", "best_of_n", "majority", "certainty", "single")
    return SearchPlan(
        **{
            "tasks": (FAMILY,),
            "methods": methods,
            "sizes": (1, 2),
            "limit": 3,
            "generation": HOT,
            "split": "dev",
            **changes,
        }
    )


def timeless(folder: Path) -> list[dict[str, Any]]:
    lines = [
        json.loads(line)
        for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [
        {name: value for name, value in line.items() if "seconds" not in name} for line in lines
    ]


@pytest.fixture(scope="module")
def undisturbed(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "whole"
    run(plan(), folder, lm, Exact(lm))
    return folder


class KilledError(Exception):
    """What ends a run in the middle."""


def test_a_killed_comparison_goes_on_and_draws_nothing_twice(
    lm: LM, undisturbed: Path, tmp_path: Path
) -> None:
    """The end of a process leaves whole lines and perhaps a torn one; what is whole is kept as it
    is.
    """
    given = plan()
    for stop in (2, 7):
        left = stop

        def start(done: int, total: int) -> Callable[[], None]:
            assert total == len(given.order)

            def tick() -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise KilledError

            return tick

        with pytest.raises(KilledError):
            run(given, tmp_path / "run", lm, Exact(lm), on_start=start)
    part = tmp_path / "run" / "samples.0.jsonl"
    kept = part.read_text(encoding="utf-8")
    assert len(kept.splitlines()) == 9
    part.write_text(kept + '{"method": "beam", "n"', encoding="utf-8")
    ticks: list[tuple[int, int]] = []
    records = run(
        given,
        tmp_path / "run",
        lm,
        Exact(lm),
        on_start=lambda done, total: ticks.append((done, total)) or (lambda: None),
    )
    assert ticks == [(9, len(given.order))] and len(records) == len(given.order)
    assert timeless(tmp_path / "run") == timeless(undisturbed)
    whole = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(kept.splitlines()) <= set(whole)  # seconds too: nothing was drawn again
    with pytest.raises(OptionError, match="other settings"):
        run(plan(limit=2), tmp_path / "run", lm, Exact(lm))


def test_budgets_may_be_added_to_a_comparison(lm: LM, undisturbed: Path) -> None:
    before = timeless(undisturbed)
    more = plan(methods=("beam",), sizes=(3,))
    run(more, undisturbed, lm, Exact(lm))
    assert timeless(undisturbed)[:3] != before[:3] and all(
        line in timeless(undisturbed) for line in before
    )
    run(plan(), undisturbed, lm, Exact(lm))
    assert timeless(undisturbed)[: len(before)] == before


def test_a_report_is_what_its_lines_say(lm: LM, undisturbed: Path) -> None:
    given = plan()
    report = summarise(given, run(given, undisturbed, lm, Exact(lm)), resamples=50)
    lines = timeless(undisturbed)
    beam = [line for line in lines if line["method"] == "beam" and line["n"] == 2]
    point = next(curve for curve in report["curves"] if curve["method"] == "beam")["points"][1]
    assert point["score"]["value"] == pytest.approx(
        100 * sum(line["right"] for line in beam) / 3, abs=0.01
    )
    assert point["sequences"] == pytest.approx(
        sum(line["sequences"] + line["verifier_sequences"] for line in beam) / 3, abs=0.01
    )
    pools = [line for line in lines if line["method"] == "samples"]
    single = next(curve for curve in report["curves"] if curve["method"] == "single")["points"]
    share = sum(sum(line["right"]) / 2 for line in pools) / 3
    assert single[0]["score"]["value"] == pytest.approx(100 * share, abs=0.01) and len(single) == 1
    assert report["families"]["arithmetic"] == pytest.approx(100 * share, abs=0.01)
    assert {each["baseline"] for each in report["against"]} == {
        "best_of_n",
        "majority",
        "certainty",
    }
    json.dumps(report, allow_nan=False)


def test_what_a_pool_chooses_at_a_budget() -> None:
    """Four answers in groups of one, two and four: their picks and the sums of their costs, by
    hand.
    """
    line = {
        "vote": ["a", "b", "b", "c"],
        "right": [False, True, True, False],
        "same": [0, 1, 1, 3],
        "logprob": [-1.0, -3.0, -2.0, -4.0],
        "tokens": [10, 20, 20, 40],
        "passes": [[0, 1], [0, 2, 3, 4], [0, 2, 5, 6], [0, 7, 8, 9, 10, 11]],
        "sequences_a_pass": 1,
        "verifier": [0.9, 0.2, 0.2, 0.1],
        "outcome": None,
        "seconds": 12.0,
        "verifier_seconds": 0.5,
    }
    assert pick_from_pool(line, "single", 1, "") == (50.0, 4.0, 0.0, 22.5, 4.0)
    assert pick_from_pool(line, "majority", 4, "") == (
        100.0,
        12.0,
        0.0,
        90.0,
        12.0,
    )  # a pass that several have in common runs once
    assert pick_from_pool(line, "majority", 2, "") == (
        50.0,
        7.0,
        0.0,
        45.0,
        7.0,
    )  # ties: the first of each
    assert pick_from_pool(line, "best_of_n", 2, "verifier") == (
        50.0,
        7.0,
        4.0,
        45.0,
        8.0,
    )  # equal answers are read once, by two networks
    assert pick_from_pool(line, "best_of_n", 4, "verifier") == (0.0, 12.0, 6.0, 90.0, 13.5)
    assert pick_from_pool(line, "certainty", 3, "") == (
        0.0,
        7.0,
        0.0,
        50.0,
        7.0,
    )  # one whole group of three


@pytest.mark.parametrize("method", [name for name in METHODS if name != "single"])
def test_every_method_is_charged_the_same_for_what_it_draws_and_reads(
    lm: LM, tmp_path: Path, method: str
) -> None:
    """A report charges what the networks ran for a problem, also where it reads it from a pool."""
    given = plan(methods=(method,), sizes=(2,), limit=2)
    judge = Exact(lm)
    lines = run(given, tmp_path / "run", lm, judge)
    (curve,) = summarise(given, lines, resamples=20)["curves"]
    (point,) = curve["points"]
    sampler, direct = Sampler(lm, HOT, share=True), Exact(lm)
    asked = make_problems((FAMILY,), given.items, lm, HOT)
    found = [one for _, one in search(SearchConfig(method, n=2), asked, sampler, direct)]
    policy = sum(one.spent.policy.sequences for one in found) / 2
    assert point["policy_sequences"] == pytest.approx(policy)
    assert point["verifier_sequences"] == pytest.approx(
        METHODS[method].needs_verifier * direct.sequences / 2
    )
    assert point["sequences"] == pytest.approx(
        policy + METHODS[method].needs_verifier * direct.sequences / 2
    )
    assert direct.sequences == sum(one.spent.verifier.sequences for one in found)


def test_a_verifier_costs_what_it_runs(lm: LM, verifier: Path) -> None:
    """Two networks for each row: for a beam's states, and for whole answers of a pool alike."""
    loaded = Verifier.load(verifier, lm)
    ((_, one),) = Sampler(lm, HOT).draw([RolloutRequest(problems(lm)[0].root, ".", 0)])
    ((_, two),) = Sampler(lm, HOT).draw([RolloutRequest(problems(lm)[1].root, ".", 0)])
    for states in ([one.state], [one.state, two.state], [*one.state.prefixes, two.state]):
        before = loaded.sequences
        loaded.q(states)
        rows = len(prefix_chains(states))
        assert loaded.sequences - before == verifier_cost(states).sequences
        assert verifier_cost(states).sequences == verifier_sequences(rows) == 2 * rows


def test_step_by_step_methods_may_have_budgets_of_their_own(lm: LM, tmp_path: Path) -> None:
    given = plan(methods=("beam", "majority"), sizes=(1, 2), step_sizes=(1,), limit=2)
    assert [cell[:2] for cell in given.cells] == [("samples", 2), ("beam", 1)]
    report = summarise(given, run(given, tmp_path / "run", lm, Exact(lm)), resamples=20)
    budgets = {
        curve["method"]: [point["n"] for point in curve["points"]] for curve in report["curves"]
    }
    assert budgets == {"beam": [1], "majority": [1, 2]}
    with pytest.raises(OptionError):
        plan(step_sizes=(0,))


def test_curves_are_held_against_each_other_in_logarithms_of_compute() -> None:
    cost, score = np.array([1.0, 4.0, 16.0]), np.array([10.0, 30.0, 20.0])
    assert at_equal_compute(np.array([0.5, 2.0, 8.0, 99.0]), cost, score).tolist() == pytest.approx(
        [10.0, 20.0, 25.0, 20.0]
    )
    assert at_equal_accuracy(
        np.array([5.0, 20.0, 30.0, 31.0]), cost, score
    ).tolist() == pytest.approx([1.0, 2.0, 4.0, math.inf])

    def line(name: str, costs: list[float], scores: list[float]) -> CurveEstimate:
        means = np.array([[s, c, 0.0, c, c] for s, c in zip(scores, costs)])
        return CurveEstimate(
            name, tuple(range(1, len(costs) + 1)), means, np.repeat(means[None], 3, 0)
        )

    told = compare_curves(
        line("beam", [2.0, 4.0], [30.0, 40.0]),
        line("best_of_n", [1.0, 4.0, 16.0], [10.0, 30.0, 35.0]),
        "sequences",
    )
    assert [each["difference"]["value"] for each in told["points"]] == [10.0, 10.0]
    assert [each["ratio"]["value"] for each in told["points"]] == [2.0, None]
    assert (told["range"]["from"], told["range"]["to"], told["range"]["difference"]["value"]) == (
        2.0,
        4.0,
        10.0,
    )


NONSENSE: list[dict[str, Any]] = [
    *(
        {"methods": (spec,)}
        for spec in ("beem", "beam:n=3", "majority:alpha=2", "beam:c=0", "beam:d=1")
    ),
    *({"sizes": ()}, {"sizes": (0,)}, {"limit": 1}),
    {"tasks": (Task("quiz", "quiz", lambda _: ITEMS[0], lambda *_: True),)},
]


@pytest.mark.parametrize("changes", NONSENSE)
def test_a_comparison_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        plan(**changes)


COMMANDS = [
    ("pav compare", "needs a verifier"),
    ("compare --search --verifier {v}", "credit pav compare"),
    ("pav compare --verifier {v} --n 0,x", "whole numbers"),
    ("pav compare --verifier {v} --n 1,2", "temperature"),
    ("pav compare --verifier {v}/nothing --temperature 1", "no verifier here"),
    ("search hello --temperature 1", "needs a verifier"),
    ("search hello --temperature 1 --method majority --limit 3", "need --tasks"),
    ("search hello --temperature 1 --verifier {v} --n 64 --memory 0.02", "rows at most"),
    ("search hello --temperature 1 --n 0", "n is out of range"),
    ("search hello --temperature 1 --alpha=-1", "alpha is out of range"),
    ("search hello --temperature 1 --k 0", "k is out of range"),
    ("search --tasks facts,mmlu=x.csv --temperature 1 --method majority", "x.csv"),
    ("search hello --tasks facts --temperature 1", "exclude each other"),
]


@pytest.fixture(scope="module")
def verifier(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that knows nothing."""
    folder = tmp_path_factory.mktemp("verifier") / "v"
    folder.mkdir()
    write_verifier(folder, Scorer.begin(lm), model_identity(lm), {"masks": 0})
    return folder


@pytest.mark.parametrize(("command", "said"), COMMANDS)
def test_the_command_line_refuses_in_one_line(
    verifier: Path,
    tmp_path: Path,
    command: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["credit", *command.format(v=verifier).split()])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 2 and said in told and told.count("\n") == 1


def test_the_commands_search_and_compare(
    verifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hot = "-d threshold:threshold=0.4 --temperature 1.5 --gen-length 64 --threads 1"

    def said(command: str) -> str:
        monkeypatch.setattr(sys, "argv", ["credit", *command.split()])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    one = json.loads(said(f"search Hello --verifier {verifier} --n 2 --c 2 --json {hot}"))
    assert (
        one["policy"]["sequences"] > 0
        and len(one["rounds"][0]) >= 1
        and one["rounds"][-1][0]["text"]
    )
    assert "Q + alpha A" in said(f"search Hello --verifier {verifier} --n 1 --c 1 {hot}")
    right = json.loads(
        said(f"search --tasks arithmetic --limit 2 --method majority --n 2 --json {hot}")
    )
    assert right["families"]["arithmetic"]["problems"] == 2 and right["verifier_sequences"] == 0
    out = tmp_path / "run"
    told = said(
        f"pav compare --tasks arithmetic --limit 2 --verifier {verifier} --n 1,2 --seeds 1 --methods beam --out {out} {hot}"
    )
    assert (
        "beam" in told
        and json.loads((out / "report.json").read_text(encoding="utf-8"))["problems"] == 2
    )
    assert (out / "search.png").is_file() and len(
        (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    ) == 4


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


@pytest.mark.parametrize("flag", [["--delimiter", ";"], ["--raw"]])
def test_what_is_of_a_prompt_is_refused_beside_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["credit", "search", "--tasks", "arithmetic", *flag])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "for a prompt" in capsys.readouterr().err
