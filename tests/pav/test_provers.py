"""Provers: exact on trees where all is known, without bias where it is not, and named only when
there is enough to go by.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditdecoding import load
from creditdecoding.errors import OptionError
from creditdecoding.pav.data.label_store import Label
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.provers import (
    FEWEST,
    Branching,
    Moments,
    Predict,
    branchings,
    chance_of_failing,
    compare_provers,
    provers_from_counts,
    provers_from_predictions,
    spread,
)
from tests.helpers.cli import run_credit
from tests.helpers.verifiers import some_labels, stored, written_verifier
from tools.make_checkpoint import make

CHANCES = (0.5, 0.3, 0.2)  # of three next steps under pi
VALUES = (0.05, 0.15, 0.40)  # Q^pi of them
MANY = 10**6


def state(problem: int, *steps: int, done: bool = False) -> PartialAnswer:
    """One id a step."""
    return PartialAnswer(
        (problem + 100,), steps, tuple(range(1, len(steps) + 1)), done, "stop" if done else ""
    )


def answers(taken: Sequence[int], problems: int = FEWEST) -> list[Label]:
    """Complete answers of two steps, drawn as often as `taken` says, all alike wrong."""
    return [
        Label("quiz", p, state(p, a, 9, done=True), 0, n)
        for p in range(problems)
        for a, n in enumerate(taken)
        if n
    ]


def predict(values: Sequence[float]) -> Predict:
    """Knows the value of each first step; a second step changes nothing."""
    return lambda states: [values[state.written[0]] for state in states]


def exact(x: Sequence[float], y: Sequence[float]) -> float:
    """Covariance over the next steps under pi."""
    p = np.array(CHANCES)
    return float(p @ (np.array(x) * np.array(y)) - (p @ np.array(x)) * (p @ np.array(y)))


def roots(labels: Sequence[Label]) -> list[Branching]:
    return [fork for fork in branchings(labels) if fork.children[0].depth == 1]


def test_a_tree_where_all_is_known() -> None:
    forks = roots(answers([round(MANY * p) for p in CHANCES]))
    ks = (1, 2, 4, 16, 1000)
    weak, strong, against, blind = (
        (1e-6, 2e-6, 3e-6),
        (0.999999, 1.0, 0.999999),
        (0.40, 0.30, 0.05),
        (0.3, 0.3, 0.3),
    )
    others = {
        "weak": predict(weak),
        "strong": predict(strong),
        "against": predict(against),
        "blind": predict(blind),
    }
    choice = provers_from_predictions(forks, predict(VALUES), ks, others)
    by = {prover.name: prover for prover in choice.provers}
    for name, values in {
        **{f"bo{k}": [1 - (1 - q) ** k for q in VALUES] for k in ks},
        "weak": weak,
        "against": against,
    }.items():
        prover = by[name]
        assert (
            prover.distinguishability is not None
            and prover.alignment is not None
            and prover.total is not None
        )
        assert prover.distinguishability.value == pytest.approx(
            exact(values, values), rel=1e-5, abs=1e-12
        )
        assert prover.alignment.value == pytest.approx(exact(values, VALUES), rel=1e-5, abs=1e-12)
        assert prover.total.value == pytest.approx(
            prover.distinguishability.value + prover.alignment.value
        )
    totals = {name: prover.total.value for name, prover in by.items() if prover.total is not None}
    assert by["bo1"].alignment and by["bo1"].distinguishability
    assert by["bo1"].alignment.value == pytest.approx(
        by["bo1"].distinguishability.value
    )  # mu = pi: nothing but Var[A^pi]
    assert all(
        abs(totals[name]) < 1e-5 for name in ("weak", "strong", "blind", "bo1000")
    )  # too weak, too strong
    assert totals["bo4"] > totals["bo2"] > totals["bo1"] and choice.chosen == max(
        totals, key=lambda name: totals[name]
    )
    assert by["against"].alignment is not None and by["against"].alignment.value < 0


def test_the_tree_of_a_store() -> None:
    labels = [
        Label("quiz", 0, state(0), 3, 8),
        Label("quiz", 0, state(0, 1), 2, 8),  # continued below
        Label("quiz", 0, state(0, 2), 1, 8),  # not continued: taken once
        Label("quiz", 0, state(0, 1, 5), 2, 8),
        Label("quiz", 0, state(0, 1, 5, 7, done=True), 1, 1),
        Label("quiz", 0, state(0, 1, 6, done=True), 3, 3),  # drawn three times
        Label("quiz", 1, state(1, 1, done=True), 0, 1),  # a problem with one answer has no fork
    ]
    fork_at_depth = {fork.children[0].depth: fork for fork in branchings(labels)}
    assert set(fork_at_depth) == {1, 2} and all(
        fork.problem == ("quiz", 0) for fork in fork_at_depth.values()
    )
    assert dict(zip(fork_at_depth[1].children, fork_at_depth[1].taken)) == {
        state(0, 1): 4,
        state(0, 2): 1,
    }
    assert dict(zip(fork_at_depth[2].children, fork_at_depth[2].taken)) == {
        state(0, 1, 5): 1,
        state(0, 1, 6, done=True): 3,
    }


@given(st.floats(0, 1), st.integers(1, 12), st.integers(1, 12))
def test_powers_of_a_chance_are_estimated_without_bias(q: float, draws: int, tries: int) -> None:
    """The expectation over all counts is the power itself."""
    estimates = [
        chance_of_failing(Label("quiz", 0, state(0, 1), wins, draws), tries)
        for wins in range(draws + 1)
    ]
    if tries > draws:
        assert all(map(math.isnan, estimates))
    else:
        chances = [
            math.comb(draws, wins) * q**wins * (1 - q) ** (draws - wins)
            for wins in range(draws + 1)
        ]
        assert math.fsum(a * b for a, b in zip(chances, estimates)) == pytest.approx(
            (1 - q) ** tries, abs=1e-9
        )
    assert [
        chance_of_failing(Label("quiz", 0, state(0, 1, done=True), wins, 1), tries)
        for wins in (0, 1)
    ] == [1.0, 0.0]


def test_spreads_over_few_draws_are_without_bias() -> None:
    """The expectation over all ways to draw three steps is the variance, or covariance, itself."""
    mu, pi = np.array([0.9, 0.2, 0.4]), np.array(VALUES)
    variance = covariance = 0.0
    for drawn in itertools.product(range(3), repeat=3):
        counts = Counter(drawn)
        fork = Branching(("quiz", 0), tuple(state(0, a) for a in counts), tuple(counts.values()))
        places = list(counts)
        moments = Moments.predicted(mu[places], pi[places])
        chance = math.prod(CHANCES[a] for a in drawn)
        variance += chance * spread([fork], moments.mu, moments.mu, moments.square)[0][0]
        covariance += chance * spread([fork], moments.mu, moments.pi, moments.product)[0][0]
    assert variance == pytest.approx(
        exact(mu.tolist(), mu.tolist())
    ) and covariance == pytest.approx(exact(mu.tolist(), VALUES))


def test_the_noise_of_counts_is_taken_out() -> None:
    """From 8 completions a state: raw counts see half as much variance again as there is."""
    rng = np.random.default_rng(0)
    labels, problems, draws = [], 600, 8
    for problem in range(problems):
        for action, times in Counter(rng.choice(3, size=6, p=CHANCES).tolist()).items():
            labels.append(Label("quiz", problem, state(problem, action, 9, done=True), 0, times))
            labels.append(
                Label(
                    "quiz",
                    problem,
                    state(problem, action),
                    int(rng.binomial(draws, VALUES[action])),
                    draws,
                )
            )
    taken = roots(labels)
    choice = provers_from_counts(taken, labels, (1, 2, 4, 8))
    for prover, k in zip(choice.provers, (1, 2, 4)):
        values = [1 - (1 - q) ** k for q in VALUES]
        assert prover.distinguishability is not None and prover.alignment is not None
        assert (
            prover.distinguishability.low < exact(values, values) < prover.distinguishability.high
        ), k
        assert prover.alignment.low < exact(values, VALUES) < prover.alignment.high, k
    assert choice.provers[3].total is None  # 16 draws would be needed
    raw = {(label.problem, label.state): label.value for label in labels}
    known: Predict = lambda states: [raw[state.prompt[0] - 100, state] for state in states]  # noqa: E731
    (naive,) = provers_from_predictions(taken, known, (1,), {}).provers
    assert naive.distinguishability is not None and naive.distinguishability.low > 1.2 * exact(
        VALUES, VALUES
    )


def test_a_prover_is_named_only_where_there_is_enough_to_go_by() -> None:
    taken = [5, 3, 2]
    few = provers_from_predictions(roots(answers(taken, FEWEST - 1)), predict(VALUES), (2, 4), {})
    assert (
        few.chosen is None
        and few.verdict.startswith("no choice: fewer")
        and few.provers[0].total is not None
    )
    nothing = provers_from_predictions([], predict(VALUES), (2, 4), {})
    assert (
        nothing.chosen is None
        and nothing.provers[0].total is None
        and nothing.to_json()["states"] == 0
    )
    alone = provers_from_predictions(roots(answers(taken)), predict(VALUES), (1,), {})
    assert alone.chosen is None and "adds nothing" in alone.verdict
    rng = np.random.default_rng(0)
    noise = dict(zip(range(FEWEST), rng.random((FEWEST, 3)).tolist()))

    def noisy(states: Sequence[PartialAnswer]) -> list[float]:
        return [noise[state.prompt[0] - 100][state.written[0]] for state in states]

    choice = provers_from_predictions(roots(answers(taken)), noisy, (1, 2, 2.5, 1000), {})
    assert (
        choice.chosen in ("bo2", "bo2.5")
        and len(choice.equals) == 1
        and choice.equals[0] in choice.verdict
    )
    for k in (0, 0.5, -1, math.inf):
        with pytest.raises(OptionError, match="K of 1 or more"):
            provers_from_predictions(roots(answers(taken)), predict(VALUES), (k,), {})
    assert compare_provers([], {}).provers == ()


@pytest.mark.slow
def test_the_command_compares_provers(tmp_path: Path) -> None:
    base, other = (
        make("llada", tmp_path / name, seed=seed) for name, seed in (("base", 0), ("other", 1))
    )
    alien = make("dream", tmp_path / "foreign")
    lm = load(str(base))
    labels = stored(some_labels(lm), tmp_path / "labels.jsonl")
    for model, name in ((base, "v"), (other, "weak"), (alien, "alien")):
        written_verifier(load(str(model)), tmp_path / name, model=str(model))
    begin = ["pav", "provers", labels, "-m", str(base), "--verifier", str(tmp_path / "v")]
    done = run_credit(
        [*begin, "--k", "1,4", "--prover", f"weak={tmp_path / 'weak'}", "--counts", "--json"]
    )
    assert done.status == 0, done.stderr
    report = json.loads(done.stdout)
    assert (
        [prover["prover"] for prover in report["provers"]] == ["bo1", "bo4", "weak"]
        and report["chosen"] in ("bo4", "weak")
        and not report["held_out"]
    )
    assert report["several"] == report["problems"] == 24 and [
        prover["prover"] for prover in report["counts"]["provers"]
    ] == ["bo1", "bo4"]
    assert (
        report["counts"]["provers"][1]["distinguishability"]["value"]
        > report["provers"][1]["distinguishability"]["value"]
    )  # it has learned nothing
    done = run_credit(begin)
    assert done.status == 0 and "bo32" in done.stdout
    for flags, expected in (
        (["--k", "0"], "K of 1 or more"),
        (["--k", "two"], "must be numbers"),
        (["--prover", "weak"], "NAME=DIR"),
        (["--prover", f"bo4={tmp_path / 'weak'}"], "taken by best-of-K"),
        (["--prover", f"alien={tmp_path / 'alien'}"], "another tokenizer"),
        (["--prover", f"none={tmp_path / 'none'}"], "no verifier here"),
        (["--verifier", str(tmp_path / "weak")], "another model"),
    ):
        done = run_credit([*begin, *flags])
        assert done.status == 2, done.stderr
        error = done.stderr
        assert expected in error and error.count("\n") == 1, error
