"""The didactic task: exact values against enumeration and rollouts, the telescoping trap, the
policy, runs that are killed, the command.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.cli import main
from creditdecoding.errors import MissingExtraError, OptionError
from experiments.didactic.__main__ import command
from experiments.didactic.learn import Noise, fine_tuned, learn, q_by_rollouts, rewards_of, rises
from experiments.didactic.options import ARMS, DidacticConfig
from experiments.didactic.plot import didactic_png
from experiments.didactic.policy import Made
from experiments.didactic.report import median, pass_at, report
from experiments.didactic.run import Run, read, run_all
from experiments.didactic.task import Task, played
from experiments.didactic.values import estimated, exact, measures

pytestmark = pytest.mark.slow

TASK = Task()
SMALL = Task(tokens=4, end=3, length=4, planted=(0, 1))
ALL = torch.tensor(list(itertools.product(range(4), repeat=4)))
"""Every sequence of the small task."""


def small_tasks() -> st.SearchStrategy[Task]:
    planted = st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple)
    return st.builds(
        lambda planted, more: Task(3, 2, len(planted) + more, planted), planted, st.integers(0, 2)
    )


def policy(task: Task, seed: int) -> Tensor:
    return torch.rand(
        task.states, task.tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).softmax(-1)


def won(task: Task, tokens: tuple[int, ...]) -> bool:
    """The reward, said plainly: contiguous, and before any end token."""
    written = tokens[: tokens.index(task.end)] if task.end in tokens else tokens
    size = len(task.planted)
    return any(
        written[start : start + size] == task.planted for start in range(len(written) - size + 1)
    )


# Task and values


@pytest.mark.parametrize(
    ("strength", "success"), [(5, 0.0054), (10, 0.0455), (15, 0.118), (100, 0.815)]
)
def test_provers_succeed_as_often_as_the_paper_s_constants_say(
    strength: float, success: float
) -> None:
    chances = exact(TASK, TASK.prover(strength)).success
    assert chances == pytest.approx(success, rel=0.01)


@settings(max_examples=40, deadline=None)
@given(small_tasks(), st.integers(0, 10**6))
def test_dynamic_programming_agrees_with_enumeration(task: Task, seed: int) -> None:
    """And the automaton with the reward in plain words, whatever the planted tokens have in common
    with themselves.
    """
    rule = policy(task, seed)
    total, after_first = 0.0, [0.0] * task.tokens
    for tokens in itertools.product(range(task.tokens), repeat=task.length):
        states, _ = task.walk(torch.tensor(tokens))
        assert (int(states[-1]) == task.won) == won(task, tokens)
        chances = [float(rule[state, token]) for state, token in zip(states.tolist(), tokens)]
        total += won(task, tokens) * math.prod(chances)
        after_first[tokens[0]] += won(task, tokens) * math.prod(chances[1:])
    exact_values = exact(task, rule)
    assert exact_values.success == pytest.approx(total, abs=1e-12)
    assert exact_values.q[0, 0].tolist() == pytest.approx(after_first, abs=1e-12)


def test_monte_carlo_agrees_with_dynamic_programming() -> None:
    many, rule = 1500, TASK.prover(15)
    true, estimate = exact(TASK, rule), estimated(TASK, rule, many)
    spread = (true.q * (1 - true.q) / many).sqrt()
    assert ((estimate.q - true.q).abs() <= 5.5 * spread + 1e-12).all() and (
        estimate.q - true.q
    ).abs().max() > 0
    assert (
        (estimate.v - true.v).abs() <= 5.5 * (true.v * (1 - true.v) / many).sqrt() + 1e-12
    ).all()


def test_prefers_the_longest_match_and_nothing_follows_the_end() -> None:
    states, alive = TASK.walk(
        torch.tensor([[3, 6, 0, 3, 6, 0, 3, 5, 14, 1], [3, 6, 14, 3, 6, 0, 3, 5, 1, 1]])
    )
    assert states.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4, 5, 5, 5], [0, 1, 2, 6, 6, 6, 6, 6, 6, 6, 6]]
    assert alive.sum(1).tolist() == [9, 3]
    assert exact(TASK, TASK.prover(10)).q[:, : TASK.won, TASK.end].abs().max() == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 1000))
def test_a_prover_that_is_the_base_policy_is_aligned_with_itself(
    seed: int, strength: float
) -> None:
    own = measures(TASK, TASK.prover(strength), TASK.prover(strength))
    assert torch.allclose(own.distinguishability, own.alignment, atol=1e-14)
    measured = measures(SMALL, policy(SMALL, seed), policy(SMALL, seed + 1))
    assert (measured.distinguishability >= 0).all() and (measured.alignment.abs() > 0).any()


# The telescoping trap


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 200), st.integers(0, 10**6), st.sampled_from([0, 3]))
def test_the_sum_of_advantages_from_a_step_on_is_the_reward_less_the_value_there(
    strength: float, seed: int, rollouts: int
) -> None:
    values, noise = exact(TASK, TASK.prover(strength)), Noise([seed], 1)
    tokens = played(TASK, TASK.prover(30).float(), noise.uniform(40, TASK.length))
    states, _ = TASK.walk(tokens)
    reward = (states[..., -1] == TASK.won).float()
    steps = rises(values, states, noise, rollouts)
    sums = rewards_of("telescoped", reward, None, steps, 1.0) - reward[..., None]
    assert torch.allclose(sums[..., :1], steps.sum(2, keepdim=True), atol=1e-5)
    if rollouts:
        start = reward - sums[..., 0]
        assert ((start * rollouts).round() / rollouts - start).abs().max() < 1e-5 and (
            start.round(decimals=4) >= 0
        ).all()
    else:
        step = torch.arange(TASK.length)
        assert torch.allclose(
            sums.double(), reward[..., None] - values.v[step, states[..., :-1]], atol=1e-5
        )
        assert torch.allclose(steps.double(), values.a[step, states[..., :-1], tokens], atol=1e-5)


def expected_gradient(made: Made, weights: list[Tensor], rewards: Tensor) -> Tensor:
    """The mean of what `step` follows over all sequences of the small task, by probability."""
    weights = [part.clone().requires_grad_() for part in weights]
    logs = made.log_probs(weights, ALL[None])
    written = SMALL.walk(ALL[None])[1]
    chance = logs.detach().sum(2, keepdim=True).exp()
    assert float(chance.sum()) == pytest.approx(1, abs=1e-5)
    return torch.cat(
        [
            part.flatten()
            for part in torch.autograd.grad((chance * logs * rewards * written).sum(), weights)
        ]
    )


def test_the_telescoped_gradient_is_the_outcome_s_in_expectation_and_the_effective_one_is_not() -> (
    None
):
    made = Made(SMALL, width=12, layers=2)
    weights = made.init([3])
    states, _ = SMALL.walk(ALL[None])
    reward, steps = (
        (states[..., -1] == SMALL.won).float(),
        rises(exact(SMALL, SMALL.prover(4)), states),
    )
    given_to = {"outcome": None, "telescoped": steps, "effective": steps}
    gradients = {
        arm: expected_gradient(made, weights, rewards_of(arm, reward, None, prover_weights, 2.0))
        for arm, prover_weights in given_to.items()
    }
    size = gradients["outcome"].norm()
    assert size > 0.01 and (gradients["telescoped"] - 3 * gradients["outcome"]).norm() < 1e-4 * size
    assert (gradients["effective"] - gradients["outcome"]).norm() > 0.1 * size
    direction = torch.nn.functional.cosine_similarity(
        gradients["effective"], gradients["outcome"], dim=0
    )
    assert direction < 0.99


# The policy


def slow_draw(made: Made, weights: list[Tensor], noise: Tensor) -> Tensor:
    """A token at a time, each by whole forward passes: one for every token that it might be."""
    tokens = torch.zeros(noise.shape, dtype=torch.long)
    for step in range(made.task.length):
        chances = []
        for token in range(made.task.tokens):
            tokens[..., step] = token
            chances.append(made.log_probs(weights, tokens)[..., step].exp())
        tokens[..., step] = (
            (torch.stack(chances, -1).cumsum(-1) < noise[..., step : step + 1])
            .sum(-1)
            .clamp(max=made.task.tokens - 1)
        )
    return tokens


def test_drawing_with_kept_hidden_units_is_drawing_with_whole_passes() -> None:
    made = Made(TASK, width=40)
    weights = [5 * part for part in made.init([0, 1])]
    noise = Noise([5, 6], 1).uniform(30, TASK.length)
    whole = made.draw(weights, noise)
    assert (
        torch.equal(whole, slow_draw(made, weights, noise)) and len(whole.unique()) == TASK.tokens
    )
    for size in (1, 4, 9):
        assert torch.equal(made.draw(weights, noise, whole[..., :size]), whole)


def test_a_token_s_chance_does_not_depend_on_later_tokens_and_every_place_sees_earlier_ones() -> (
    None
):
    made = Made(TASK)
    weights = [part.requires_grad_() for part in made.init([0])]
    tokens = Noise([1], 1).uniform(1, TASK.length).mul(TASK.tokens).long()
    before = made.log_probs(weights, tokens)
    for step in range(TASK.length):
        other = tokens.clone()
        other[..., step] = (other[..., step] + 1) % TASK.tokens
        change = (made.log_probs(weights, other) - before).abs()[0, 0]
        assert (change[:step] == 0).all() and (change[step:] > 0).all()


def test_success_is_estimated_without_bias_from_places_where_it_can_begin() -> None:
    made = Made(SMALL, width=12, layers=2)
    weights = [4 * part for part in made.init([0, 7])]
    logs = made.log_probs(weights, ALL.expand(2, -1, -1))
    wins = torch.tensor([won(SMALL, tuple(tokens)) for tokens in ALL.tolist()])
    true = (logs.sum(2).exp() * wins).sum(1)
    estimate = made.success(weights, Noise([0, 1], 1).uniform(20_000, SMALL.length))
    assert torch.allclose(estimate, true, rtol=0.03) and float((true[0] - true[1]).abs()) > 0.005


def test_q_by_rollouts_is_exact_where_the_reward_is_certain_and_near_elsewhere() -> None:
    made, noise = Made(SMALL, width=12, layers=2), Noise([0, 1], 1)
    weights = [
        torch.zeros_like(part) for part in made.init([0, 1])
    ]  # uniform: a policy that looks at nothing
    values = exact(SMALL, torch.full((SMALL.states, SMALL.tokens), 0.25, dtype=torch.float64))
    tokens = made.draw(weights, noise.uniform(60, SMALL.length))
    states, _ = SMALL.walk(tokens)
    true = values.q[torch.arange(SMALL.length), states[..., :-1], tokens].float()
    q, drew = q_by_rollouts(made, weights, tokens, 400, noise)
    sure = (true == 0) | (true == 1)
    assert torch.equal(q[sure], true[sure]) and (q[~sure] - true[~sure]).abs().max() < 0.15
    assert drew.tolist() == (400 * (~sure).sum((1, 2))).tolist()
    alone, _ = q_by_rollouts(made, [part[1:] for part in weights], tokens[1:], 4, Noise([9], 1))
    both, _ = q_by_rollouts(made, weights, tokens, 4, Noise([8, 9], 1))
    assert torch.equal(alone[0], both[1])


# Learning


def config(**changes: Any) -> DidacticConfig:
    return DidacticConfig(
        **{
            "arms": "effective",
            "strengths": "10",
            "seeds": 2,
            "iterations": 60,
            "every": 20,
            **changes,
        }
    )


def test_fine_tuning_imitates_weakly() -> None:
    made, noise = Made(TASK), Noise([0], 1)
    weights = fine_tuned(made, config(), made.init([0]), noise)
    success = float(made.success(weights, noise.uniform(256, TASK.length)))
    assert exact(TASK, TASK.prover(1)).success < success < exact(TASK, TASK.prover(5)).success


@pytest.mark.parametrize(("optimizer", "success"), [("adam", 0.5), ("sgd", 0.9)])
def test_the_effective_reward_learns_before_the_outcome_is_seen_once(
    optimizer: str, success: float
) -> None:
    options = config(iterations=120, every=120, optimizer=optimizer)
    ends = {
        cell: [look.success for look in learn(cell, [0], options) if look.done]
        for cell in (("effective", 10.0), ("outcome", None))
    }
    assert min(ends["effective", 10.0]) > success > 0.01 > max(ends["outcome", None])


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_does_not_depend_on_those_beside_it(arm: str) -> None:
    options, cell = (
        config(iterations=4, every=2, q_rollouts=2, prover_rollouts=5, batch=16),
        (arm, None if arm in ("outcome", "q") else 10.0),
    )
    both = list(learn(cell, [4, 5], options))
    alone = list(learn(cell, [5], options))
    assert [look for look in both if look.seed == 5] == alone
    assert (
        [look.iteration for look in alone] == [0, 2, 4]
        and alone[-1].done
        and alone[-1].success != both[-2].success
    )
    assert (alone[-1].sequences > 4 * 16) == (arm in ("q", "effective-q"))


def test_a_solved_run_ends_and_the_others_go_on_as_they_were() -> None:
    """Which also says that weights, the optimiser's state and noise leave together."""
    last = 140
    whole, ended = (
        list(
            learn(
                ("effective", 10.0),
                range(4),
                config(iterations=last, every=20, solved=level, optimizer="adam"),
            )
        )
        for level in (1.0, 0.5)
    )
    leaves = {look.seed: look.iteration for look in ended if look.done}
    assert (
        set(leaves) == {0, 1, 2, 3}
        and len({iteration for iteration in leaves.values() if iteration < last}) > 1
    )
    expected = [look for look in whole if look.iteration < leaves[look.seed]]
    assert [look for look in ended if look.iteration < leaves[look.seed]] == expected


def test_cells_are_arms_with_the_provers_they_need() -> None:
    options = config(arms="telescoped:3 outcome effective outcome", strengths="1, 10 1.0")
    assert options.cells() == (
        ("telescoped", 3.0),
        ("outcome", None),
        ("effective", 1.0),
        ("effective", 10.0),
    )


# Runs in a file


class KilledError(Exception):
    pass


def killed_after(count: int) -> Callable[[int, int], Callable[[], None]]:
    left = [count]

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError

    return lambda done, total: tick


def test_a_killed_run_goes_on_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, list[int]]] = []
    monkeypatch.setattr(
        "experiments.didactic.run.learn",
        lambda cell, seeds, c: calls.append((cell, list(seeds))) or learn(cell, seeds, c),
    )
    options = config(arms="outcome effective", strengths="5 10", iterations=4, every=2, batch=8)
    whole, path = run_all(options), tmp_path / "runs.json"
    assert calls == [
        (("outcome", None), [0, 1]),
        (("effective", 5.0), [0, 1]),
        (("effective", 10.0), [0, 1]),
    ]
    calls.clear()
    with pytest.raises(KilledError):
        run_all(
            options, path, killed_after(11)
        )  # in the second cell, after the end of its first seed
    assert [run.key for run in read(path, options)] == [
        ("outcome", None, 0),
        ("outcome", None, 1),
        ("effective", 5.0, 0),
    ]
    calls.clear()
    counted: list[tuple[int, int]] = []
    assert (
        run_all(options, path, lambda done, total: counted.append((done, total)) or (lambda: None))
        == whole
    )
    assert calls == [(("effective", 5.0), [1]), (("effective", 10.0), [0, 1])] and counted == [
        (9, 18)
    ]
    calls.clear()
    more = config(arms="effective", strengths="10", seeds=3, iterations=4, every=2, batch=8)
    assert (
        run_all(more, path)[:2] == whole[-2:]
        and calls == [(("effective", 10.0), [2])]
        and len(read(path, more)) == 7
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"settings": {}, "runs": [', "no runs of the didactic task"),
        ("[]", "no runs of the didactic task"),
        ('{"settings": {}, "runs": [{"arm": "q"}]}', "no runs of the didactic task"),
        ('{"settings": {"alpha": 2.0}, "runs": []}', r"other settings \(.*alpha: 2.0 there"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "runs.json"
    path.write_text(text)
    with pytest.raises(OptionError, match=expected):
        run_all(config(), path)
    assert path.read_text() == text


# Report and command


def test_medians_count_runs_that_never_arrive() -> None:
    ten = [*map(float, range(1, 8)), math.inf, math.inf, math.inf]
    assert median(ten) == {
        "value": 5.5,
        "low": 2.0,
        "high": None,
        "known": True,
    }  # ranks 2 and 9 of 10: 97.9 %
    assert median([1.0] * 5) == {
        "value": 1.0,
        "low": None,
        "high": None,
        "known": False,
    }  # 1..5 of 5 would be 93.8 %
    assert median([3.0, 1.0, 2.0, 9.0, 5.0, 4.0]) == {
        "value": 3.5,
        "low": 1.0,
        "high": 9.0,
        "known": True,
    }
    assert median([math.inf] * 3)["value"] is None


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_pass_at_n(chance: float, count: int) -> None:
    assert pass_at(chance, count) == pytest.approx(1 - (1 - chance) ** count, abs=1e-9)
    assert pass_at(1e-12, 10) == pytest.approx(1e-11)


def made_up(arm: str, strength: float | None, seed: int, *success: float) -> Run:
    return Run(
        arm,
        strength,
        seed,
        tuple(20 * step for step in range(len(success))),
        success,
        64 * 20 * (len(success) - 1),
    )


def test_a_report_says_where_runs_arrive() -> None:
    options = config(arms="outcome effective", seeds=6, solved=0.99, pass_at=30)
    runs = [made_up("outcome", None, seed, 1e-5, 1e-5, 1e-5, 0.2) for seed in range(6)]
    runs += [
        made_up("effective", 10.0, seed, 1e-5, 0.5, *[0.97] * (seed > 3), 0.995)
        for seed in range(6)
    ]
    summary = report(options, runs)
    outcome, effective = summary["cells"]
    assert (outcome["solved"], effective["solved"]) == (0, 6) and effective["updates"][
        "solved"
    ] == {
        "value": 40,
        "low": 40,
        "high": 60,
        "known": True,
    }
    assert (
        effective["updates"]["half"]["value"] == 20 and outcome["updates"]["half"]["value"] is None
    )
    assert effective["sequences_per_update"] == 64 and effective["curve"][3] == {
        "iteration": 60,
        "value": 0.995,
        "low": 0.995,
        "high": 0.995,
    }
    assert (
        effective["pass_at"]["pass"][1]["value"] == 0.75
        and outcome["pass_at"]["success"]["value"] == summary["before"]["success"]["value"] == 1e-5
    )
    assert [(cell["solved"], cell["runs"]) for cell in summary["cells"]] == [(0, 6), (6, 6)]
    assert [cell["updates"]["most"]["value"] for cell in summary["cells"]] == [None, 40]
    assert [prover["strength"] for prover in summary["provers"]] == [10.0] and summary["provers"][
        0
    ]["success"] == pytest.approx(0.0455, abs=1e-4)
    by_rollouts, off = summary["provers"][0]["by_rollouts"], summary["provers"][0]["q_off"]
    assert by_rollouts["low"] < 0.0455 < by_rollouts["high"] < 0.1 and 0 < off < 0.2


QUICK = [
    "--iterations",
    "3",
    "--every",
    "2",
    "--batch",
    "8",
    "--seeds",
    "2",
    "--q-rollouts",
    "1",
    "--sft-iterations",
    "2",
]


def credit(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["didactic", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main(command)
    return stopped.value.code


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, png = tmp_path / "didactic.json", tmp_path / "didactic.png"
    arguments = [*QUICK, "--arms", " ".join(ARMS), "--strengths", "1 5 10 15 20", "--out", str(out)]
    assert credit(monkeypatch, *arguments, "--png", str(png), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (
        len(summary["cells"]) == 2 + 3 * 5
        and png.read_bytes().startswith(b"\x89PNG")
        and json.loads(out.read_text())["report"] == summary
    )
    assert credit(monkeypatch, *QUICK, "--arms", "outcome", "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert "0/2" in shown and "updates until" in shown
    assert len(json.loads(out.read_text())["runs"]) == 2 * 17


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--arms", "effektive"], "Did you mean 'effective'?"),
        (["--arms", " "], "arms names nothing"),
        (["--arms", "outcome:5"], "outcome has no prover"),
        (["--arms", "telescoped:"], "got ''"),
        (["--strengths", "ten"], "got 'ten'"),
        (["--strengths", "10 0"], "got '0'"),
        (["--strengths", "nan"], "got 'nan'"),
        (["--seeds", "0"], "seeds is out of range"),
        (["--alpha", "-1"], "alpha is out of range"),
        (["--solved", "1.5"], "solved is out of range"),
        (["--out", "no/where.json"], "the folder of this file does not exist"),
        (["--png", "no/where.png"], "the folder of this file does not exist"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert credit(monkeypatch, *QUICK, *arguments) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_the_figure_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("creditdecoding.plots.base.Figure", None)
    with pytest.raises(MissingExtraError):
        didactic_png({"cells": []}, tmp_path / "x.png")


def test_bad_tasks_are_refused() -> None:
    for planted in ((14,), (15,), (), (1,) * 11):
        with pytest.raises(OptionError):
            Task(planted=planted)
