"""Comparisons of searches: runs that are continued, reports, costs from pools."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from creditdecoding import load
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.pav.sampler import Sampler
from creditdecoding.pav.search.compare import SearchPlan, make_problems, run
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
from creditdecoding.tasks.base import Task
from tests.helpers.searches import FAMILY, HOT, ITEMS, Exact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=16)


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
    search_plan = plan()
    for stop in (2, 7):
        left = stop

        def start(done: int, total: int) -> Callable[[], None]:
            assert total == len(search_plan.order)

            def tick() -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise KilledError

            return tick

        with pytest.raises(KilledError):
            run(search_plan, tmp_path / "run", lm, Exact(lm), on_start=start)
    part = tmp_path / "run" / "samples.0.jsonl"
    kept = part.read_text(encoding="utf-8")
    assert len(kept.splitlines()) == 9
    part.write_text(kept + '{"method": "beam", "n"', encoding="utf-8")
    ticks: list[tuple[int, int]] = []
    records = run(
        search_plan,
        tmp_path / "run",
        lm,
        Exact(lm),
        on_start=lambda done, total: ticks.append((done, total)) or (lambda: None),
    )
    assert ticks == [(9, len(search_plan.order))] and len(records) == len(search_plan.order)
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
    search_plan = plan()
    report = summarise(search_plan, run(search_plan, undisturbed, lm, Exact(lm)), resamples=50)
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
    assert {pair["baseline"] for pair in report["against"]} == {
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
    search_plan = plan(methods=(method,), sizes=(2,), limit=2)
    judge = Exact(lm)
    lines = run(search_plan, tmp_path / "run", lm, judge)
    (curve,) = summarise(search_plan, lines, resamples=20)["curves"]
    (point,) = curve["points"]
    sampler, direct = Sampler(lm, HOT, share=True), Exact(lm)
    problems = make_problems((FAMILY,), search_plan.items, lm, HOT)
    results = [one for _, one in search(SearchConfig(method, n=2), problems, sampler, direct)]
    policy = sum(one.spent.policy.sequences for one in results) / 2
    assert point["policy_sequences"] == pytest.approx(policy)
    assert point["verifier_sequences"] == pytest.approx(
        METHODS[method].needs_verifier * direct.sequences / 2
    )
    assert point["sequences"] == pytest.approx(
        policy + METHODS[method].needs_verifier * direct.sequences / 2
    )
    assert direct.sequences == sum(one.spent.verifier.sequences for one in results)


def test_step_by_step_methods_may_have_budgets_of_their_own(lm: LM, tmp_path: Path) -> None:
    search_plan = plan(methods=("beam", "majority"), sizes=(1, 2), step_sizes=(1,), limit=2)
    assert [cell[:2] for cell in search_plan.cells] == [("samples", 2), ("beam", 1)]
    report = summarise(search_plan, run(search_plan, tmp_path / "run", lm, Exact(lm)), resamples=20)
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

    comparison = compare_curves(
        line("beam", [2.0, 4.0], [30.0, 40.0]),
        line("best_of_n", [1.0, 4.0, 16.0], [10.0, 30.0, 35.0]),
        "sequences",
    )
    assert [point["difference"]["value"] for point in comparison["points"]] == [10.0, 10.0]
    assert [point["ratio"]["value"] for point in comparison["points"]] == [2.0, None]
    assert (
        comparison["range"]["from"],
        comparison["range"]["to"],
        comparison["range"]["difference"]["value"],
    ) == (
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
