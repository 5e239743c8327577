"""Likelihoods against their definition, the mean over orders, and the same in a batch as alone;
traces scored again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import new_infill_request, new_request
from creditdecoding.errors import OptionError
from creditdecoding.integrations.external_model import wrap
from creditdecoding.likelihood import Estimate, log_likelihood, log_likelihoods, rescore
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import Trace
from tests.helpers.llada_network import MASK, WIDTH, dense, lm_of, network

torch.set_num_threads(1)
PROMPT, ANSWER = [1, 2, 3], [4, 5, 6, 7]


def dense_log_probs(net: Transformer, canvas: list[int], scale: float) -> Tensor:
    """log p [length, vocab] at every position, the mask ruled out; guided if `scale`."""
    x = torch.tensor([canvas])
    logits = dense(net)(x)[0].double()
    if scale:
        x[:, : len(PROMPT)] = MASK
        unconditional = dense(net)(x)[0].double()
        logits = unconditional + (scale + 1) * (logits - unconditional)
    if net.config.logit_shift:
        logits = torch.cat((logits[:1], logits[:-1]))
    logits[:, MASK] = -torch.inf
    return logits.log_softmax(-1)


def mean_over_orders(
    log_probs: Callable[[list[int]], Tensor], answer: list[int], block_ends: list[int], length: int
) -> float:
    """The bound by its definition: the mean, over all orders of writing each block, of the sum of
    log p, token by token. `length` is that of the canvas.
    """
    tokens = PROMPT + answer
    total = 0.0
    for start, end in itertools.pairwise([0, *block_ends]):
        positions = [len(PROMPT) + i for i in range(start, end)]
        orders = list(itertools.permutations(positions))
        for order in orders:
            canvas = tokens[: positions[0]] + [MASK] * (length - positions[0])
            for position in order:
                total += float(log_probs(canvas)[position, tokens[position]]) / len(orders)
                canvas[position] = tokens[position]
    return total


@pytest.mark.parametrize(
    ("changes", "options", "block_ends", "length"),
    [
        ({}, {}, [4], 7),
        ({}, {"cfg_scale": 0.7}, [4], 7),
        ({}, {"block_length": 3}, [3, 4], 7),
        ({"logit_shift": True}, {"ratios": "uniform"}, [4], 7),
        ({"causal_block": 4}, {}, [1, 4], 8),
        ({"causal_block": 4, "logit_shift": True}, {"block_length": 2}, [1, 3, 4], 8),
    ],
)
def test_estimates_are_unbiased_and_know_their_error(
    changes: dict[str, Any], options: dict[str, Any], block_ends: list[int], length: int
) -> None:
    """Full and block-causal attention, plain and shifted logits, guided; with block-causal
    attention the prompt's last block is shared with the answer.
    """
    net = network(1, **changes)
    lm = lm_of(net)
    scale = options.get("cfg_scale", 0.0)
    truth = mean_over_orders(
        lambda canvas: dense_log_probs(net, canvas, scale), ANSWER, block_ends, length
    )
    estimates = [
        log_likelihood(lm, PROMPT, ANSWER, mc_num=48, seed=seed, **options) for seed in range(12)
    ]
    means = torch.tensor([estimate.mean for estimate in estimates], dtype=torch.float64)
    claimed = math.sqrt(sum(estimate.error**2 for estimate in estimates) / len(estimates))
    assert abs(float(means.mean()) - truth) < 4 * claimed / math.sqrt(len(estimates))
    assert 0.4 * claimed < float(means.std()) < 2.0 * claimed


def test_blocks_of_one_token_have_the_exact_left_to_right_likelihood() -> None:
    net = network(1)
    truth = mean_over_orders(
        lambda canvas: dense_log_probs(net, canvas, 0.0), ANSWER, [1, 2, 3, 4], 7
    )
    estimate = log_likelihood(lm_of(net), PROMPT, ANSWER, block_length=1)
    assert estimate == Estimate(pytest.approx(truth, abs=1e-4), 0.0)  # type: ignore[arg-type]


def test_stratified_ratios_vary_less() -> None:
    """For a model that is the surer the more it sees."""

    def net(ids: Tensor) -> Tensor:
        visible = (ids != MASK).sum(-1)[:, None, None].float()
        fours = torch.nn.functional.one_hot(torch.tensor(4), WIDTH)
        return visible * fours.expand(*ids.shape, -1)

    def log_probs(canvas: list[int]) -> Tensor:
        logits = net(torch.tensor([canvas]))[0]
        logits[:, MASK] = -torch.inf
        return logits.double().log_softmax(-1)

    lm = wrap(net, mask_token_id=MASK)
    truth = mean_over_orders(log_probs, [4] * 5, [5], 8)
    spread = {}
    for ratios in ("stratified", "uniform"):
        means = torch.tensor(
            [
                log_likelihood(lm, PROMPT, [4] * 5, mc_num=24, seed=seed, ratios=ratios).mean
                for seed in range(16)
            ]
        )
        spread[ratios] = means.std()
        assert float(means.mean()) == pytest.approx(truth, abs=1.0)
    assert spread["stratified"] < 0.4 * spread["uniform"]


def test_other_pairs_in_the_batch_change_nothing() -> None:
    """Neither padding nor the batch size; the seed does."""
    lm = lm_of(network(2))
    pairs = [
        ([1, 2, 3], [4, 5, 6, 7]),
        ([9], [8]),
        ([1] * 9, [2, 3]),
        ([4, 4], [5, 6, 7, 8, 9, 10, 11]),
    ]
    together = log_likelihoods(lm, pairs, mc_num=6, batch_size=5)
    for pair, estimate in zip(pairs, together):
        alone = log_likelihood(lm, *pair, mc_num=6, batch_size=1)
        assert estimate.mean == pytest.approx(alone.mean, abs=1e-4)
        assert estimate.error == pytest.approx(alone.error, abs=1e-4)
    other_seed = log_likelihoods(lm, pairs, mc_num=6, seed=1)
    assert together[0] != other_seed[0]
    assert together[1].mean == pytest.approx(other_seed[1].mean, abs=1e-4)


def test_a_single_sample_has_no_error_estimate() -> None:
    estimate = log_likelihood(lm_of(network()), PROMPT, ANSWER, mc_num=1)
    assert math.isnan(estimate.error)
    assert estimate.mean < 0


def test_an_external_network_is_scored_like_ours() -> None:
    net = network(5)
    ours = log_likelihood(lm_of(net), PROMPT, ANSWER, mc_num=8)
    wrapped = log_likelihood(wrap(dense(net), mask_token_id=MASK), PROMPT, ANSWER, mc_num=8)
    assert wrapped.mean == pytest.approx(ours.mean, abs=1e-4)


# Traces scored again
# ---------


def trace_of(lm: LM, **options: Any) -> Trace:
    rows = [
        new_request(
            0,
            PROMPT,
            GenerationConfig(**{"gen_length": 10, "early_stop": False, **options}),
            lm.vocab,
            99,
            lm.geometry,
        )
    ]
    trace = lm.new_trace(rows[0])
    for event in lm.events(rows):
        trace.add(event)
    return trace


@pytest.mark.parametrize(
    "changes",
    [{}, {"logit_shift": True}, {"causal_block": 4}, {"causal_block": 4, "logit_shift": True}],
)
@pytest.mark.parametrize(
    "options", [{}, {"cfg_scale": 0.8}, {"logits_eos_inf": True}, {"temperature": 1.0, "seed": 3}]
)
def test_scores_are_what_decoding_saw(
    changes: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    """Also after saving; for rules whose confidence is the model's probability."""
    lm = lm_of(network(3, **changes))
    trace = trace_of(lm, decoder="threshold:threshold=0.5", block_length=4, **options)
    trace.save(tmp_path / "trace")
    score = rescore(lm, Trace.load(tmp_path / "trace"), batch_size=3)
    expected = {
        position: math.log(confidence)
        for step in trace.steps
        for position, confidence, committed in zip(step.positions, step.confidence, step.committed)
        if committed
    }
    assert score.by_position.keys() == expected.keys() == trace.written.keys()
    assert score.by_position == pytest.approx(expected, abs=1e-4)
    assert score.total == pytest.approx(sum(expected.values()), abs=1e-3)


def test_credit_boosts_confidences_and_not_scores() -> None:
    lm = lm_of(network(3))
    trace = trace_of(lm, decoder="credit:threshold=0.6")
    canvas = [*PROMPT, *[MASK] * 10]
    expected = 0.0
    for step in trace.steps:
        log_probs = dense_log_probs(lm.model, canvas, 0.0)  # type: ignore[arg-type]
        for position, token in step.commits().items():
            expected += float(log_probs[position, token])
            canvas[position] = token
    assert rescore(lm, trace).total == pytest.approx(expected, abs=1e-4)


def test_an_infilled_text_is_scored_at_its_gaps() -> None:
    lm = lm_of(network(3))
    text = [1, MASK, 3, MASK, MASK, 2]
    request = new_infill_request(0, text, GenerationConfig(decoder="fixed"), lm.vocab, 99)
    trace = lm.new_trace(request)
    for event in lm.events([request]):
        trace.add(event)
    score = rescore(lm, trace)
    assert score.by_position.keys() == {1, 3, 4}
    ((position, token),) = trace.steps[0].commits().items()
    logits = dense(lm.model)(torch.tensor([text]))[0]  # type: ignore[arg-type]
    logits[:, [MASK, *lm.vocab.stop_ids]] = -torch.inf
    expected = float(logits.log_softmax(-1)[position, token])
    assert score.by_position[position] == pytest.approx(expected, abs=1e-4)


# Refusals
# ---------


@pytest.mark.parametrize(
    ("message", "prompt", "answer", "options"),
    [
        ("answer is empty", PROMPT, [], {}),
        ("prompt is empty", [], ANSWER, {}),
        ("ids that no text has", PROMPT, [MASK], {}),
        ("ids that no text has", [WIDTH], ANSWER, {}),
        ("ids that no text has", [-1], ANSWER, {}),
        ("mc_num is out of range", PROMPT, ANSWER, {"mc_num": 0}),
        ("ratios is out of range", PROMPT, ANSWER, {"ratios": "antithetic"}),
        ("unknown option", PROMPT, ANSWER, {"mcnum": 3}),
        ("do not fit", PROMPT, [1] * 126, {}),
    ],
)
def test_what_cannot_be_scored_is_refused(
    message: str, prompt: list[int], answer: list[int], options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match=message):
        log_likelihood(lm_of(network()), prompt, answer, **options)


def test_other_refusals() -> None:
    lm = lm_of(network())
    with pytest.raises(OptionError, match="does not divide"):
        log_likelihood(lm_of(network(causal_block=4)), PROMPT, ANSWER, block_length=3)
    trace = trace_of(lm, decoder="fixed")
    with pytest.raises(OptionError, match="batch_size"):
        rescore(lm, trace, batch_size=0)
    with pytest.raises(OptionError, match="does not say how"):
        rescore(lm, Trace(trace.prompt, trace.steps, trace.finish))
    with pytest.raises(OptionError, match="another model"):
        rescore(lm, Trace((1, WIDTH), trace.steps, trace.finish, trace.settings))
    twice = Trace(trace.prompt, [*trace.steps, trace.steps[0]], trace.finish, trace.settings)
    with pytest.raises(OptionError, match="overwrites or remasks"):
        rescore(lm, twice)
