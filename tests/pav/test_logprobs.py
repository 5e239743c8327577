"""Log-probabilities of steps: what they are, that tokens are drawn by them, and that their gradient
is the score function.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from creditdecoding import load
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.likelihood import rescore
from creditdecoding.lm import LM
from creditdecoding.pav.rl.logprobs import (
    batches,
    distributions,
    divergence,
    refuse_unscored,
    scored_passes,
    token_logprobs,
)
from creditdecoding.pav.rl.options import BASELINES, TOKENS
from creditdecoding.pav.rl.policy_weights import learning_copy
from creditdecoding.pav.rl.rewards import baseline, rewards
from creditdecoding.pav.sampler import Rollout, RolloutRequest, Sampler
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items
from tests.helpers.tiny_policy import (
    CONFIG,
    IDS,
    PROMPT,
    TEMPERATURE,
    Tiny,
    every_answer,
    every_draw,
    step_logprobs,
    tiny_lm,
)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket-v1", batch_size=8)


def drawn(
    lm: LM, decoder: str, temperature: float = 1.5, steps: int | None = None
) -> list[Rollout]:
    """A whole answer, one from the end of its first step, and another question's."""
    (family,) = load_tasks("arithmetic")
    config = GenerationConfig(decoder=decoder, gen_length=80, temperature=temperature)
    first, second = (
        PartialAnswer(tuple(lm.encode(item.prompt))) for item in distinct_items(family, "dev", 1, 2)
    )
    sampler = Sampler(lm, config)
    rollouts = dict(
        sampler.draw([RolloutRequest(first, ".", 1, steps), RolloutRequest(second, ".", 2, steps)])
    )
    ((_, more),) = sampler.draw([RolloutRequest(rollouts[0].state.prefix(1), ".", 3, steps)])
    return [rollouts[0], more, rollouts[1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "steps"),
    [("threshold:threshold=0.4", None), ("fixed:k=3", None), ("credit", 2), ("factor", 1)],
)
def test_steps_sum_to_what_rescoring_a_trace_says(lm: LM, decoder: str, steps: int | None) -> None:
    answers = drawn(lm, decoder, steps=steps)
    for answer, step_values in zip(answers, step_logprobs(lm, answers, 1.0, batch_size=3)):
        scored, state = rescore(lm, answer.trace).by_position, answer.state
        begun = len(answer.trace.settings.get("begun", ()))
        edges = [len(state.prompt) + end for end in (0, *state.ends)]
        rescored = [
            sum(scored.get(p, 0.0) for p in range(first, last))
            for first, last in itertools.pairwise(edges)
        ]
        if state.done and state.reason == "stop":
            rescored[-1] += scored[edges[-1]]
        assert step_values.tolist() == pytest.approx(rescored, abs=1e-3)
        assert not begun or (step_values[0] == 0 and state.ends[0] == begun)
        assert step_values.sum().item() == pytest.approx(
            answer.logprob + (scored[edges[-1]] if state.done else 0.0), abs=1e-2
        )


def stated(model: torch.nn.Module, lm: LM, answer: Rollout, temperature: float) -> Tensor:
    """The same again, plainly: pass by pass, the canvas before it in full, every position's
    softmax.
    """
    total, settings = torch.zeros(()), answer.trace.settings
    canvas = torch.full((len(answer.trace.prompt) + settings["gen_length"],), lm.vocab.mask_id)
    canvas[: len(answer.trace.prompt)] = torch.tensor(answer.trace.prompt)
    for i, token in enumerate(settings.get("begun", ())):
        canvas[len(answer.trace.prompt) + i] = token
    allowed = [i for i in range(lm.vocab.size) if i != lm.vocab.mask_id]
    for step in answer.trace.steps:
        every = torch.arange(len(canvas))
        logits = (
            model(canvas.clone()[None], (torch.zeros_like(every), every))[:, allowed] / temperature
        )
        for position, token in step.commits().items():
            if position < len(answer.state.prompt) + len(answer.state.written) + answer.state.done:
                total = total + logits[position].log_softmax(-1)[allowed.index(token)]
            canvas[position] = token
    return total


@pytest.mark.slow
def test_the_gradient_is_that_of_a_plain_restatement_and_of_finite_differences(lm: LM) -> None:
    model, _ = learning_copy(lm)
    answers = drawn(lm, "threshold:threshold=0.4")
    double_lm = LM(model.double(), lm.tokenizer, max_length=lm.max_length, device=lm.device)
    gradients = torch.autograd.grad(
        torch.cat(step_logprobs(double_lm, answers, 1.5)).sum(), [*model.parameters()]
    )
    plain_gradients = torch.autograd.grad(
        sum((stated(model, lm, answer, 1.5) for answer in answers), torch.zeros(())),
        [*model.parameters()],
    )
    for mine_, expected in zip(gradients, plain_gradients):
        torch.testing.assert_close(mine_, expected, rtol=1e-6, atol=1e-9)
    weights = [w for w in model.parameters() if w.dim() == 2]
    way = [
        torch.randn(w.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i, w in enumerate(weights)
    ]
    slope = sum(float((g * d).sum()) for g, d in zip((g for g in gradients if g.dim() == 2), way))
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, step in zip(weights, way):
                weight += sign * 2e-4 * step
            ends.append(torch.cat(step_logprobs(double_lm, answers, 1.5)).sum().item())
    assert (ends[0] - ends[1]) / 4e-4 == pytest.approx(slope, rel=2e-2)


# By listing every answer


@pytest.fixture(scope="module")
def tiny() -> LM:
    return tiny_lm(Tiny())


@pytest.mark.slow
def test_answers_are_drawn_as_often_as_their_steps_say(tiny: LM) -> None:
    answers = every_answer(tiny)
    chance = {
        (*a.state.written, a.state.reason): x.sum().exp().item()
        for a, x in zip(answers, step_logprobs(tiny, answers, TEMPERATURE))
    }
    assert sum(chance.values()) == pytest.approx(1, abs=1e-9)
    count = 600
    seen = Counter(
        (*d.state.written, d.state.reason)
        for _, d in Sampler(tiny, CONFIG).draw(
            RolloutRequest(PartialAnswer(PROMPT), ".", seed) for seed in range(count)
        )
    )
    assert set(seen) <= set(chance)
    for answer, p in chance.items():
        assert abs(seen[answer] - count * p) < 4.5 * (count * p * (1 - p)) ** 0.5 + 1


def exact_q(
    answers: list[Rollout], chance: Tensor, verdict: Tensor
) -> dict[tuple[int, ...], float]:
    """Q^pi of every state: the chance of a right end, given the steps of the state."""
    values: dict[tuple[int, ...], Tensor] = {}
    for answer, p, right in zip(answers, chance, verdict):
        for state in answer.state.prefixes[:-1]:
            values[state.written] = values.get(state.written, torch.zeros(2)) + torch.stack(
                (p * right, p)
            )
    return {written: float(won / all_) for written, (won, all_) in values.items()}


@pytest.fixture(scope="module")
def listed(tiny: LM) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Log-probabilities of steps, Q of states, chances and verdicts of all answers: right is what
    holds "b." and no "a".
    """
    answers = every_answer(tiny)
    steps = step_logprobs(tiny, answers, TEMPERATURE)
    chance = torch.stack([x.sum() for x in steps]).exp()
    verdict = torch.tensor(
        [
            float(
                IDS[0] not in a.state.written
                and IDS[1:3] in zip(a.state.written, a.state.written[1:])
            )
            for a in answers
        ]
    )
    known = exact_q(answers, chance.detach(), verdict)
    q = [
        torch.tensor([*(known[s.written] for s in a.state.prefixes[:-1]), right])
        for a, right in zip(answers, verdict.tolist())
    ]
    return steps, q, chance, verdict


def gradient(tiny: LM, value: Tensor) -> Tensor:
    assert isinstance(tiny.model, Tiny)
    return torch.autograd.grad(value, tiny.model.table, retain_graph=True)[0].flatten()


def expected(
    tiny: LM,
    listed: tuple[list[Tensor], list[Tensor], Tensor, Tensor],
    arm: str,
    off: str = "none",
    alpha: float = 2.0,
) -> Tensor:
    """The expectation of an arm's policy gradient."""
    steps, q, chance, _ = listed
    weighed = [
        ((rewards(arm, values, alpha, 4.0) - baseline(off, values, 0.3)) * x).sum()
        for x, values in zip(steps, q)
    ]
    return gradient(tiny, (chance.detach() * torch.stack(weighed)).sum())


def test_the_score_function_has_expectation_zero(
    tiny: LM, listed: tuple[list[Tensor], list[Tensor], Tensor, Tensor]
) -> None:
    steps, _, chance, _ = listed
    assert gradient(tiny, torch.stack([x.sum() for x in steps])[5]).abs().max() > 0.1
    assert (
        gradient(tiny, (chance.detach() * torch.stack([x.sum() for x in steps])).sum()).abs().max()
        < 1e-12
    )


@pytest.mark.parametrize("off", BASELINES)
@pytest.mark.parametrize("arm", ["outcome", "q"])
def test_reinforce_is_the_gradient_of_success(
    tiny: LM,
    listed: tuple[list[Tensor], list[Tensor], Tensor, Tensor],
    arm: str,
    off: str,
) -> None:
    """Whatever baseline is subtracted."""
    _, _, chance, verdict = listed
    exact = gradient(tiny, (chance * verdict).sum())
    torch.testing.assert_close(expected(tiny, listed, arm, off), exact, rtol=1e-5, atol=1e-8)


def test_the_immediate_advantage_is_another_gradient(
    tiny: LM, listed: tuple[list[Tensor], list[Tensor], Tensor, Tensor]
) -> None:
    outcome, effective = expected(tiny, listed, "outcome"), expected(tiny, listed, "effective")
    assert torch.cosine_similarity(outcome, effective, dim=0) < 0.99
    for off in BASELINES:
        torch.testing.assert_close(
            expected(tiny, listed, "effective", off), effective, rtol=1e-5, atol=1e-8
        )
    torch.testing.assert_close(
        expected(tiny, listed, "effective", alpha=0.0), outcome, rtol=1e-5, atol=1e-8
    )


def test_where_draws_are_discarded_all_of_them_make_the_score_function(tiny: LM) -> None:
    """Against finite differences of success under a threshold rule; what was written alone has
    another gradient, and no expectation of zero.
    """
    config = dataclasses.replace(
        CONFIG, gen_length=2, block_length=2, decoder="threshold:threshold=0.5"
    )
    torch.manual_seed(0)
    way = torch.randn_like(tiny.model.table)  # type: ignore[attr-defined]

    def right(answer: Rollout) -> float:
        return float(answer.state.written == IDS[1:3])

    def success(step: float) -> float:
        moved = Tiny()
        moved.table.data += step * way
        return sum(p * right(answer) for p, answer in every_draw(tiny_lm(moved), config, 0.5))

    every = every_draw(tiny, config, 0.5)
    assert sum(p for p, _ in every) == pytest.approx(1) and {
        len(a.trace.steps) for _, a in every
    } == {1, 2}
    chance = torch.tensor([p for p, _ in every], dtype=torch.float64)
    slope = (success(1e-6) - success(-1e-6)) / 2e-6
    for tokens in TOKENS:
        total = torch.stack(
            [x.sum() for x in step_logprobs(tiny, [a for _, a in every], TEMPERATURE, tokens)]
        )
        score = gradient(tiny, (chance * total).sum())
        estimate = gradient(
            tiny, (chance * total * torch.tensor([right(a) for _, a in every])).sum()
        )
        exact = tokens != "committed"
        assert (score.abs().max() < 1e-12) == exact
        assert (float(estimate @ way.flatten()) == pytest.approx(slope, rel=1e-5)) == exact


def test_the_divergence_is_exact_and_falls_to_its_gradient(tiny: LM) -> None:
    other = tiny_lm(Tiny(seed=1))
    batch = scored_passes(tiny, every_answer(tiny)[:4])
    tiny_distributions, base = (
        distributions(policy.model, policy, batch, TEMPERATURE) for policy in (tiny, other)
    )
    expected = torch.nn.functional.kl_div(
        base.logp[:, list(IDS)],
        tiny_distributions.logp[:, list(IDS)],
        log_target=True,
        reduction="none",
    ).sum(-1)
    torch.testing.assert_close(divergence(tiny_distributions.logp, base.logp), expected)
    assert (
        divergence(tiny_distributions.logp, tiny_distributions.logp).abs().max() == 0
        and token_logprobs(tiny_distributions, batch).isfinite().all()
    )
    assert gradient(tiny, divergence(tiny_distributions.logp, base.logp).sum()).isfinite().all()


@pytest.mark.parametrize("tokens", TOKENS)
def test_what_many_were_drawn_from_is_computed_once(tiny: LM, tokens: str) -> None:
    every = scored_passes(tiny, every_answer(tiny), tokens)
    lines = distributions(tiny.model, tiny, every, TEMPERATURE)
    assert len(lines.logp) < len(lines.line) / 3 and [
        len(part) for part in batches(every, 10**6)
    ] == [len(every)]
    alone = torch.cat(
        [
            token_logprobs(distributions(tiny.model, tiny, [scored], TEMPERATURE), [scored])
            for scored in every
        ]
    )
    torch.testing.assert_close(token_logprobs(lines, every), alone)
    kinds = [
        {scored.query.row.canvas.numpy().tobytes() for scored in part} for part in batches(every, 3)
    ]
    assert all(len(kind) <= 3 for kind in kinds) and sum(map(len, kinds)) == len(
        set().union(*kinds)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": 1e-39},
        {"decoder": "wino"},
        {"decoder": "edit"},
        {"top_k": 5},
        {"top_p": 0.9},
        {"cfg_scale": 1.0},
        {"cache": "dual"},
    ],
)
def test_what_has_no_log_probability_is_refused(lm: LM, changes: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        refuse_unscored(lm, dataclasses.replace(GenerationConfig(temperature=1.0), **changes))  # type: ignore[arg-type]
