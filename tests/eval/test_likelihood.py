"""Likelihoods: against enumeration over dense logits written here, unbiased, the same in a batch as
alone; traces scored again.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import new_infill_request, new_request
from creditdecoding.errors import OptionError
from creditdecoding.integrations import llada_generate as compat
from creditdecoding.likelihood import (
    Estimate,
    exact_bound,
    log_likelihood,
    log_likelihoods,
    rescore,
)
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import Trace
from tests.integrations.test_llada_generate import MASK, WIDTH, dense, lm_of, network

torch.set_num_threads(1)
PROMPT, ANSWER = [1, 2, 3], [4, 5, 6, 7]


def dense_log_probs(net: Transformer, canvas: list[int], scale: float, given: int) -> Tensor:
    """log p [length, vocab] at every position, the mask forbidden; guided if `scale`."""
    x = torch.tensor([canvas])
    logits = dense(net)(x)[0].double()
    if scale:
        x[:, :given] = MASK
        blind = dense(net)(x)[0].double()
        logits = blind + (scale + 1) * (logits - blind)
    if net.config.logit_shift:
        logits = torch.cat((logits[:1], logits[:-1]))
    logits[:, MASK] = -torch.inf
    return logits.log_softmax(-1)


def over_orders(
    net: Transformer,
    prompt: list[int],
    answer: list[int],
    blocks: list[int],
    scale: float = 0.0,
    length: int = 0,
) -> float:
    """Mean over all orders of writing each block of the sum of log p, token by token: the bound by
    its definition.

    `blocks`: where the blocks of the answer end; `length`: of the canvas.
    """
    whole, total = prompt + answer, 0.0
    length = length or len(whole)
    for start, end in itertools.pairwise([0, *blocks]):
        places = [len(prompt) + i for i in range(start, end)]
        orders = list(itertools.permutations(places))
        for order in orders:
            canvas = whole[: places[0]] + [MASK] * (length - places[0])
            for place in order:
                total += float(
                    dense_log_probs(net, canvas, scale, len(prompt))[place, whole[place]]
                ) / len(orders)
                canvas[place] = whole[place]
    return total


@pytest.mark.parametrize(
    ("changes", "options", "blocks", "length"),
    [
        ({}, {}, [4], 0),
        ({}, {"cfg_scale": 0.7}, [4], 0),
        ({}, {"block_length": 3}, [3, 4], 0),
        ({}, {"block_length": 1}, [1, 2, 3, 4], 0),
        ({"logit_shift": True}, {}, [4], 0),
        ({"causal_block": 4}, {}, [1, 4], 8),
        ({"causal_block": 4, "logit_shift": True}, {"block_length": 2}, [1, 3, 4], 8),
    ],
)
def test_the_exact_bound_is_the_mean_over_orders(
    changes: dict[str, Any], options: dict[str, Any], blocks: list[int], length: int
) -> None:
    """Full and block-causal attention, plain and shifted logits, guided; the prompt's last block is
    shared with the answer.
    """
    net = network(1, **changes)
    found = exact_bound(lm_of(net), PROMPT, ANSWER, **options)
    assert found == pytest.approx(
        over_orders(net, PROMPT, ANSWER, blocks, options.get("cfg_scale", 0.0), length), abs=1e-4
    )


@pytest.mark.parametrize("ratios", ["stratified", "uniform"])
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"causal_block": 4}, {}),
        ({"logit_shift": True}, {"block_length": 3, "cfg_scale": 0.5}),
    ],
)
def test_estimates_are_unbiased_and_know_their_error(
    changes: dict[str, Any], options: dict[str, Any], ratios: str
) -> None:
    lm = lm_of(network(1, **changes))
    truth = exact_bound(lm, PROMPT, ANSWER, **options)
    found = [
        log_likelihood(lm, PROMPT, ANSWER, mc_num=48, seed=seed, ratios=ratios, **options)
        for seed in range(12)
    ]
    spread = torch.tensor([x.mean for x in found], dtype=torch.float64)
    claimed = math.sqrt(sum(x.error**2 for x in found) / len(found))
    assert abs(float(spread.mean()) - truth) < 4 * claimed / math.sqrt(len(found))
    assert 0.4 * claimed < float(spread.std()) < 2.0 * claimed


def test_stratified_ratios_vary_less() -> None:
    """For a network that is the surer the more it sees."""

    def net(ids: Tensor) -> Tensor:
        seen = (ids != MASK).sum(-1)[:, None, None].float()
        return seen * torch.nn.functional.one_hot(torch.tensor(4), WIDTH).expand(*ids.shape, -1)

    lm = compat.wrap(net, MASK)
    truth, spread = exact_bound(lm, PROMPT, [4] * 6), {}
    for ratios in ("stratified", "uniform"):
        found = [
            log_likelihood(lm, PROMPT, [4] * 6, mc_num=24, seed=seed, ratios=ratios)
            for seed in range(16)
        ]
        spread[ratios] = torch.tensor([x.mean for x in found]).std()
        assert sum(x.mean for x in found) / 16 == pytest.approx(truth, abs=1.0)
    assert spread["stratified"] < 0.4 * spread["uniform"]


def test_what_is_scored_beside_it_changes_nothing() -> None:
    """Neither padding nor the batch size; the seed does."""
    lm = lm_of(network(2))
    pairs = [
        ([1, 2, 3], [4, 5, 6, 7]),
        ([9], [8]),
        ([1] * 9, [2, 3]),
        ([4, 4], [5, 6, 7, 8, 9, 10, 11]),
    ]
    together = log_likelihoods(lm, pairs, mc_num=6, batch_size=5)
    for pair, ours in zip(pairs, together):
        alone = log_likelihood(lm, *pair, mc_num=6, batch_size=1)
        assert (ours.mean, ours.error) == pytest.approx((alone.mean, alone.error), abs=1e-4)
    other = log_likelihoods(lm, pairs, mc_num=6, seed=1)
    assert together[0] != other[0] and together[1].mean == pytest.approx(other[1].mean, abs=1e-4)


def test_one_token_needs_one_pass_and_has_no_error() -> None:
    lm = lm_of(network())
    found = log_likelihood(lm, PROMPT, [4], mc_num=64)
    assert found == Estimate(pytest.approx(exact_bound(lm, PROMPT, [4]), abs=1e-5), 0.0)  # type: ignore[arg-type]
    assert (
        math.isnan(log_likelihood(lm, PROMPT, ANSWER, mc_num=1).error)
        and log_likelihood(lm, PROMPT, ANSWER, mc_num=1).mean < 0
    )


def test_a_network_of_ones_own_is_scored_as_ours() -> None:
    net = network(5)
    ours = log_likelihood(lm_of(net), PROMPT, ANSWER, mc_num=8)
    theirs = log_likelihood(compat.wrap(dense(net), MASK), PROMPT, ANSWER, mc_num=8)
    assert theirs.mean == pytest.approx(ours.mean, abs=1e-4)


# Traces scored again
# ---------------------------------------------------------------------------------------------------------


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
    trace.save(tmp_path / "t")
    score = rescore(lm, Trace.load(tmp_path / "t"), batch_size=3)
    seen = {
        p: math.log(c)
        for s in trace.steps
        for p, c, done in zip(s.positions, s.confidence, s.committed)
        if done
    }
    assert score.by_position.keys() == seen.keys() == trace.written.keys()
    assert score.by_position == pytest.approx(seen, abs=1e-4)
    assert score.total == pytest.approx(sum(seen.values()), abs=1e-3)


def test_credit_boosts_confidences_and_not_scores() -> None:
    lm = lm_of(network(3))
    trace = trace_of(lm, decoder="credit:threshold=0.6")
    canvas, expected = [*PROMPT, *[MASK] * 10], 0.0
    for step in trace.steps:
        logp = dense_log_probs(lm.model, canvas, 0.0, 3)  # type: ignore[arg-type]
        for place, token in step.commits().items():
            expected += float(logp[place, token])
            canvas[place] = token
    assert rescore(lm, trace).total == pytest.approx(expected, abs=1e-4)


def test_an_infilled_text_is_scored_at_its_gaps() -> None:
    lm = lm_of(network(3))
    row = new_infill_request(
        0, [1, MASK, 3, MASK, MASK, 2], GenerationConfig(decoder="fixed"), lm.vocab, 99
    )
    (done,) = [lm.new_trace(row)]
    for event in lm.events([row]):
        done.add(event)
    found = rescore(lm, done)
    assert found.by_position.keys() == {1, 3, 4} and all(x < 0 for x in found.by_position.values())
    banned = torch.tensor([MASK, *lm.vocab.stop_ids])
    logits = dense(lm.model)(torch.tensor([[1, MASK, 3, MASK, MASK, 2]]))[0].index_fill(
        1, banned, -torch.inf
    )  # type: ignore[arg-type]
    ((first, token),) = done.steps[0].commits().items()
    assert found.by_position[first] == pytest.approx(
        float(logits.log_softmax(-1)[first, token]), abs=1e-4
    )


# Refusals
# --------------------------------------------------------------------------------------------------------------------


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
    for function in (log_likelihood, exact_bound):
        with pytest.raises(OptionError, match=message):
            function(lm_of(network()), prompt, answer, **options)


def test_other_refusals() -> None:
    lm = lm_of(network())
    with pytest.raises(OptionError, match="too long to enumerate"):
        exact_bound(lm, PROMPT, [1] * 15)
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
    with pytest.raises(OptionError, match="writes over tokens"):
        rescore(lm, twice)
