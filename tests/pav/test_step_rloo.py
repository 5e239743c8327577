"""Further draws of the steps of answers: what is drawn, what each is weighed by, that it is the
same gradient with less noise.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from creditdecoding import load
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.likelihood import rescore
from creditdecoding.lm import LM
from creditdecoding.pav.rl.logprobs import with_end
from creditdecoding.pav.rl.options import RLConfig
from creditdecoding.pav.rl.report import run_specs
from creditdecoding.pav.rl.step_rloo import (
    StepSample,
    leave_one_out_weights,
    sample_steps,
    split_weights,
    successors,
)
from creditdecoding.pav.sampler import Rollout, RolloutRequest, Sampler
from creditdecoding.pav.steps import Delimiter, PartialAnswer
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items
from tests.helpers.tiny_policy import step_logprobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=16)


def drawn(
    lm: LM, decoder: str, mark: Delimiter, block: int | None
) -> tuple[list[Rollout], list[StepSample]]:
    """Some answers, and two more draws of each of their steps."""
    (family,) = load_tasks("arithmetic")
    config = GenerationConfig(decoder=decoder, gen_length=80, temperature=2.0, block_length=block)
    asks = [
        RolloutRequest(PartialAnswer(tuple(lm.encode(item.prompt))), mark, i)
        for i, item in enumerate(distinct_items(family, "dev", 1, 3))
    ]
    rollouts = dict(Sampler(lm, config).draw(asks))
    answers = [rollouts[i] for i in range(3)]
    answers = [
        Rollout(with_end(x.state, mark, lm.vocab.decode), x.cost, x.logprob, x.trace)
        for x in answers
    ]
    rng = random.Random(0)
    seeds = iter(lambda: rng.getrandbits(60), None)
    return answers, sample_steps(
        answers, [mark] * len(answers), 2, Sampler(lm, config, share=True), seeds
    )


@pytest.mark.parametrize(
    ("decoder", "mark", "block"),
    [("fixed:k=8", 8, 8), ("threshold:threshold=0.4", ".", None), ("fixed:k=4", ".", 8)],
)
def test_branches_go_one_step_from_where_the_answers_were(
    lm: LM, decoder: str, mark: Delimiter, block: int | None
) -> None:
    answers, others = drawn(lm, decoder, mark, block)
    assert len(others) == 2 * sum(answer.state.depth for answer in answers)
    for other in others:
        state, answer = other.rollout.state, answers[other.answer].state
        assert state.depth == other.step + 1 and state.prefix(other.step) == answer.prefix(
            other.step
        )
    assert {state.done for state in (other.rollout.state for other in others)} == {True, False}
    assert any(
        other.rollout.state != answers[other.answer].state.prefix(other.step + 1)
        for other in others
    )
    lessons = [other.as_one_step for other in others]
    whole, alone = (
        step_logprobs(lm, rollouts, 1.0)
        for rollouts in ([other.rollout for other in others], lessons)
    )
    for other, whole_steps, one_step in zip(others, whole, alone):
        assert (
            len(one_step) == 1
            and whole_steps[-1].item() == pytest.approx(one_step.item(), abs=1e-4)
            and whole_steps[:-1].tolist() == [0.0] * other.step
        )
        scored, state = rescore(lm, other.rollout.trace).by_position, other.rollout.state
        end = len(state.prompt) + len(state.written) + (state.reason == "stop")
        assert one_step.item() == pytest.approx(
            sum(x for p, x in scored.items() if p < end), abs=1e-3
        )


def test_weights_find_their_steps(lm: LM) -> None:
    answers, others = drawn(lm, "fixed:k=8", 8, 8)
    before, behind = successors([answer.state for answer in answers], others)
    assert all(
        len(line) == 3 and all(x.prefix(s.depth) == s for x in line)
        for s, line in zip(before, behind)
    )
    steps = [step for answer in answers for step in range(answer.state.depth)]
    table = torch.arange(3.0 * len(steps)).view(-1, 3)
    weights_by_answer = split_weights(table, [answer.state.depth for answer in answers])
    named = {
        (i // 3, i % 3): state for i, state in enumerate(state for line in behind for state in line)
    }
    expected = [
        [answer.state.prefix(step + 1) for step in range(answer.state.depth)] for answer in answers
    ] + [[other.rollout.state] for other in others]
    assert [
        [named[int(x) // 3, int(x) % 3] for x in weights.tolist()] for weights in weights_by_answer
    ] == expected


def expected(logits: Tensor, rewards: Tensor, count: int) -> tuple[Tensor, float]:
    """The mean of the gradient over all that may be drawn, and the mean square of its distance from
    that.
    """
    chance, advantages = logits.detach().softmax(0), []
    for draw in itertools.product(range(len(logits)), repeat=count):
        drawn_rewards = rewards[list(draw)]
        weights = (
            leave_one_out_weights(drawn_rewards[None])[0]
            if count > 1
            else drawn_rewards - chance @ rewards
        )
        (slope,) = torch.autograd.grad((weights * logits.log_softmax(0)[list(draw)]).mean(), logits)
        advantages.append((float(chance[list(draw)].prod()), slope))
    mean = sum((p * slope for p, slope in advantages), torch.zeros_like(rewards))
    return mean, sum(p * float((slope - mean).square().sum()) for p, slope in advantages)


def test_the_gradient_is_that_of_the_expected_reward_with_less_noise() -> None:
    noise = torch.Generator().manual_seed(0)
    logits = torch.randn(4, generator=noise, dtype=torch.float64, requires_grad=True)
    rewards = torch.rand(4, generator=noise, dtype=torch.float64)
    (exact,) = torch.autograd.grad(logits.softmax(0) @ rewards, logits)
    spreads = []
    for count in (1, 2, 5):
        mean, spread = expected(logits, rewards, count)
        torch.testing.assert_close(mean, exact)
        torch.testing.assert_close(
            expected(logits, rewards + 3.0, count)[0], exact
        )  # what depends on the state alone cancels
        spreads.append(spread)
    assert (
        spreads[2] < 0.3 * spreads[0] and spreads[1] < 1.01 * spreads[0]
    )  # two are as good as one beside its exact value


def test_candidates_are_for_arms_that_a_verifier_pays(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="only for the step that was taken"):
        RLConfig(arm="outcome", candidates=2)
    with pytest.raises(OptionError, match="effective:candidates=4"):
        run_specs(tmp_path, "outcome,effective", RLConfig(candidates=2), 0, 1)
    specs = run_specs(
        tmp_path,
        "outcome effective:candidates=8,lr=1e-4 effective",
        RLConfig(iterations=7, lr=1e-5),
        0,
        1,
    )
    assert [run.config for run in specs] == [
        RLConfig(arm="outcome", iterations=7, lr=1e-5),
        RLConfig(iterations=7, candidates=8, lr=1e-4),
        RLConfig(iterations=7, lr=1e-5),
    ]
    assert [run.folder.name for run in specs] == [
        "outcome-0",
        "effective,candidates=8,lr=1e-4-0",
        "effective-0",
    ]


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        ("q:candidate=2", "candidates"),
        ("q:arm=outcome", "option of q"),
        ("efective:lr=1", "effective"),
        ("q:lr=x", "number"),
        ("q:lr", "lr="),
        (" ", "arm"),
    ],
)
def test_arms_that_are_none_are_refused(tmp_path: Path, arms: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        run_specs(tmp_path, arms, RLConfig(), 0, 1)
