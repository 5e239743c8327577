"""The originals' samplers by their argument names, against their rules restated over dense float64
logits.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create
from creditdecoding.decoding.request import (
    new_request,
    sample_seed,
)
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.integrations import llada_generate as compat
from creditdecoding.trace import total
from tests.helpers.llada_network import (
    EOS,
    EOT,
    MASK,
    WIDTH,
    WORDS,
    dense,
    lm_of,
    network,
    traces,
)

torch.set_num_threads(1)


def counts(masks: int, steps: int) -> list[int]:
    """LLaDA's get_num_transfer_tokens: even, the first steps one more."""
    return [masks // steps + (i < masks % steps) for i in range(steps)]


def sampler(
    net: Callable[[Tensor], Tensor],
    prompt: list[int],
    steps: int,
    gen_length: int,
    block_length: int,
    cfg_scale: float = 0.0,
    banned: tuple[int, ...] = (),
    hushed: tuple[int, ...] = (),
    threshold: float | None = None,
    factor: float | None = None,
) -> tuple[list[int], int, float]:
    """One row by the papers' rules: its ids, its passes, and the closest call that was made on the
    way.
    """
    x = torch.tensor([[*prompt, *[MASK] * gen_length]])
    starts = range(len(prompt), x.shape[1], block_length)
    nfe, closest = 0, 1.0
    for start in starts:
        end = min(start + block_length, x.shape[1])
        plan = (
            counts(end - start, steps // len(starts))
            if threshold is None and factor is None
            else None
        )
        step = 0
        while bool((x[0, start:end] == MASK).any()):
            logits = net(x).double()
            if cfg_scale > 0:
                un_x = x.clone()
                un_x[:, : len(prompt)] = MASK
                un = net(un_x).double()
                logits = un + (cfg_scale + 1) * (logits - un)
            logits[..., [MASK, *banned]] = -torch.inf
            top = logits.topk(2, dim=-1).values[0]
            x0 = logits.argmax(-1)[0]
            logits[..., list(hushed)] = -torch.inf
            sure = logits.softmax(-1)[0].gather(-1, x0[:, None])[:, 0]
            left = (x[0, start:end] == MASK).nonzero()[:, 0] + start
            closest = min(closest, float((top[left, 0] - top[left, 1]).min()))
            order = sorted(left.tolist(), key=lambda i: -float(sure[i]))
            ranked = [float(sure[i]) for i in order]
            if factor is not None:
                bars = [(n + 2) * (1 - c) - factor for n, c in enumerate(ranked)]
                taken = next((n for n, bar in enumerate(bars) if bar >= 0), len(order))
                closest = min(closest, *map(abs, bars))
            elif threshold is not None:
                taken = sum(c >= threshold for c in ranked)
                closest = min(closest, *(abs(c - threshold) for c in ranked))
            else:
                assert plan is not None
                taken = plan[step]
            taken = max(1, taken)
            if taken < len(order) and ranked[taken - 1] > 0:
                closest = min(closest, ranked[taken - 1] - ranked[taken])
            now = order[:taken]
            x[0, now] = x0[now]
            nfe, step = nfe + 1, step + 1
    return x[0].tolist(), nfe, closest


@pytest.mark.slow
@settings(max_examples=40, deadline=None, database=None)
@given(data=st.data())
def test_greedy_tokens_and_passes_are_those_of_the_rules(data: st.DataObject) -> None:
    """Any lengths, left padding, each way of handing the network over."""
    draw = data.draw
    net = network(draw(st.integers(0, 50)))
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    gen_length, block_length = draw(st.integers(1, 14)), draw(st.integers(1, 16))
    steps = draw(st.integers(-(-gen_length // block_length), gen_length + 3))
    cfg_scale = draw(st.sampled_from((0.0, 0.0, 0.5, 2.0)))
    end: dict[str, Any] = draw(
        st.sampled_from(({}, {"logits_eos_inf": True}, {"confidence_eos_eot_inf": True}))
    )
    rule: dict[str, Any] = draw(
        st.sampled_from(
            ({}, {}, {"threshold": 0.4}, {"threshold": 0.7}, {"factor": 0.6}, {"factor": 1.4})
        )
    )
    noise = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    prompts = [torch.randint(0, 17, (n,), generator=noise).tolist() for n in lengths]
    restated = {
        "banned": (EOS,) if "logits_eos_inf" in end else (),
        "hushed": (EOS, EOT) if "confidence_eos_eot_inf" in end else (),
    }
    ids_and_passes = [
        sampler(dense(net), p, steps, gen_length, block_length, cfg_scale, **restated, **rule)
        for p in prompts
    ]
    assume(min(margin for _, _, margin in ids_and_passes) > 1e-5)
    padded = torch.tensor([[0] * (max(lengths) - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (max(lengths) - len(p)) + [1] * len(p) for p in prompts])
    sampling: Any = draw(
        st.sampled_from(
            (net, dense(net), lambda ids: types.SimpleNamespace(logits=dense(net)(ids)), lm_of(net))
        )
    )
    if callable(sampling) and sampling is not net:
        end = {**end, "mask_id": MASK, "stop_ids": (EOS, EOT)}
    elif sampling is net and "confidence_eos_eot_inf" in end:
        end = {**end, "stop_ids": (EOS, EOT)}
    options = {
        "steps": steps,
        "gen_length": gen_length,
        "block_length": block_length,
        "cfg_scale": cfg_scale,
        **end,
        **rule,
    }
    ids, nfe = compat.generate_fast(
        sampling, padded, seen if len(set(lengths)) > 1 else None, **options
    )
    assert [line[max(lengths) - n :] for line, n in zip(ids.tolist(), lengths)] == [
        x for x, _, _ in ids_and_passes
    ]
    assert torch.equal(ids[:, : padded.shape[1]], padded) and nfe == max(
        n for _, n, _ in ids_and_passes
    )


@pytest.mark.parametrize(("masks", "steps"), [(8, 3), (8, 8), (8, 1), (3, 5), (7, 4)])
def test_a_block_takes_its_steps_the_first_ones_committing_more(masks: int, steps: int) -> None:
    rows = [
        new_request(
            0,
            [1, 2],
            GenerationConfig(decoder=f"fixed:steps={steps}", gen_length=masks, early_stop=False),
            WORDS,
            99,
        )
    ]
    (trace,) = traces(network(), rows)
    assert [sum(step.committed) for step in trace.steps] == [n for n in counts(masks, steps) if n]


def test_k_and_steps_exclude_each_other() -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        create("fixed", k=2, steps=3)


def test_the_result_of_llada_is_the_ids_alone() -> None:
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    ids = compat.generate(network(), prompt, steps=4, gen_length=8, block_length=4)
    assert ids.shape == (2, 11) and torch.equal(
        ids, compat.generate_fast(network(), prompt, steps=4, gen_length=8, block_length=4)[0]
    )
    assert not bool((ids == MASK).any())


@pytest.mark.parametrize(
    ("function", "cache"),
    [(compat.generate_with_prefix_cache, "prefix"), (compat.generate_with_dual_cache, "dual")],
)
def test_the_cached_functions_are_the_caches(function: Any, cache: str) -> None:
    net, prompt = network(3), torch.tensor([[1, 2, 3], [4, 5, 6]])
    ids, nfe = function(net, prompt, gen_length=12, block_length=4, threshold=0.6)
    config = GenerationConfig(
        decoder="threshold:threshold=0.6",
        gen_length=12,
        block_length=4,
        cache=cache,
        early_stop=False,
    )
    cached = traces(
        net,
        [
            new_request(i, line, config, WORDS, 99, net.geometry)
            for i, line in enumerate(prompt.tolist())
        ],
    )
    assert (
        ids[:, 3:].tolist() == [[trace.written[3 + i] for i in range(12)] for trace in cached]
        and nfe == total(cached).forwards
    )
    assert (
        ids.tolist()
        == compat.generate_fast(
            net,
            prompt,
            gen_length=12,
            block_length=4,
            threshold=0.6,
            use_cache=True,
            dual_cache=cache == "dual",
        )[0].tolist()
    )


def test_draws_follow_the_seed_or_torchs_generator() -> None:
    net, prompt = network(), torch.tensor([[1, 2, 3]] * 2)
    options: dict[str, Any] = {
        "gen_length": 12,
        "block_length": 12,
        "steps": 12,
        "temperature": 1.5,
    }
    once, again, other = (compat.generate(net, prompt, seed=seed, **options) for seed in (1, 1, 2))
    assert (
        torch.equal(once, again)
        and not torch.equal(once, other)
        and not torch.equal(once[0], once[1])
    )
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(compat.generate(net, prompt, remasking="random", **options))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_block_causal_network_keeps_its_blocks() -> None:
    net, prompt = network(causal_block=4), torch.tensor([[1, 2, 3]])
    ids, nfe = compat.generate_fast(net, prompt, gen_length=9, steps=9)
    (trace,) = traces(
        net,
        [
            new_request(
                0,
                [1, 2, 3],
                GenerationConfig(decoder="fixed:steps=3", gen_length=9, early_stop=False),
                WORDS,
                99,
                net.geometry,
            )
        ],
    )
    assert ids[0, 3:].tolist() == [trace.written[i] for i in range(3, 12)] and nfe == trace.nfe


BAD: list[tuple[str, dict[str, Any]]] = [
    ("fewer steps than blocks", {"steps": 2, "gen_length": 9, "block_length": 4}),
    ("steps is out of range", {"steps": 0}),
    ("gen_length is out of range", {"gen_length": 0}),
    ("remasking is out of range", {"remasking": "entropy"}),
    ("exclude each other", {"threshold": 0.9, "factor": 1.0}),
    ("threshold is out of range", {"threshold": 1.5}),
    ("factor is out of range", {"factor": 0.0}),
    ("need confidences", {"threshold": 0.9, "remasking": "random"}),
    ("exclude each other", {"logits_eos_inf": True, "confidence_eos_eot_inf": True}),
    ("needs use_cache", {"dual_cache": True}),
    ("mask_id is not this model's", {"mask_id": 3}),
    ("stop_ids outside", {"logits_eos_inf": True, "stop_ids": (99,)}),
    ("cfg_scale is out of range", {"cfg_scale": -0.1}),
    ("unknown option", {"gen_lenght": 8}),
    ("unknown option", {"step_callback": print}),
    ("do not fit", {"gen_length": 200}),
]


@pytest.mark.parametrize(("message", "options"), BAD, ids=[str(options) for _, options in BAD])
def test_what_cannot_be_served_is_refused_in_one_line(
    message: str, options: dict[str, Any]
) -> None:
    for model in (network(), lm_of(network())):
        with pytest.raises(OptionError, match=message) as error:
            compat.generate(model, torch.tensor([[1, 2, 3]]), **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("message", "prompt", "mask"),
    [
        ("wrong shape", torch.tensor([1, 2]), None),
        ("wrong shape", torch.ones(1, 2), None),
        ("wrong shape", [[1, 2]], None),
        ("empty", torch.zeros(1, 0, dtype=torch.long), None),
        ("empty", torch.zeros(0, 3, dtype=torch.long), None),
        ("outside", torch.tensor([[1, WIDTH]]), None),
        ("outside", torch.tensor([[1, -1]]), None),
        ("mask token is in the prompt", torch.tensor([[1, MASK]]), None),
        ("attention_mask has the wrong shape", torch.tensor([[1, 2]]), torch.tensor([[1]])),
        ("hides tokens after", torch.tensor([[1, 2]]), torch.tensor([[1, 0]])),
        ("empty", torch.tensor([[1, 2]]), torch.tensor([[0, 0]])),
    ],
)
def test_bad_prompts_are_refused(message: str, prompt: Any, mask: Tensor | None) -> None:
    with pytest.raises(OptionError, match=message):
        compat.generate(network(), prompt, mask)


def test_bad_models_are_refused() -> None:
    prompt, net = torch.tensor([[1, 2]]), dense(network())
    for model, options, message in (
        ("llada", {"mask_id": MASK}, "not a model"),
        (net, {}, "what its mask is"),
        (net, {"mask_id": WIDTH}, "outside the vocabulary"),
        (net, {"mask_id": MASK, "logits_eos_inf": True}, "needs the end tokens"),
        (network(), {"confidence_eos_eot_inf": True}, "needs the end tokens"),
        (net, {"mask_id": MASK, "use_cache": True}, "cache does not fit"),
    ):
        with pytest.raises(OptionError, match=message):
            compat.generate(model, prompt, **options)
    with pytest.raises(ModelError, match="wrong shape"):
        compat.generate(lambda ids: net(ids)[:, 0], prompt, mask_id=MASK)


def test_config_of_a_foreign_network_names_its_mask() -> None:
    class Foreign(torch.nn.Module):
        config = types.SimpleNamespace(mask_token_id=MASK, eos_token_id=EOS)

        def forward(self, ids: Tensor) -> Any:
            return types.SimpleNamespace(logits=dense(network())(ids))

    ids = compat.generate(
        Foreign(), torch.tensor([[1, 2, 3]]), gen_length=6, steps=6, logits_eos_inf=True
    )
    assert torch.equal(
        ids,
        compat.generate(
            network(), torch.tensor([[1, 2, 3]]), gen_length=6, steps=6, logits_eos_inf=True
        ),
    )
    assert EOS not in ids[0, 3:].tolist()


def certain(net: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A network whose best token leads by 12 to 30 nats: in float32 all its probabilities are 1."""

    def call(ids: Tensor) -> Tensor:
        logits = net(ids)
        best = logits.argmax(-1, keepdim=True)
        lead = 12.0 + 18.0 * (logits.sum(-1, keepdim=True) * 7.3).frac().abs()
        return logits.scatter_add(-1, best, lead)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("cfg_scale", (0.0, 1.5))
@pytest.mark.parametrize("rule", ({}, {"factor": 1e-7}, {"threshold": 1 - 1e-8}))
@pytest.mark.parametrize("hushed", (False, True))
def test_near_certain_tokens_are_ordered_as_in_float64(
    cfg_scale: float, rule: dict[str, float], hushed: bool
) -> None:
    """A softmax in float32, or exp(logit - lse) in it, leaves the order to rounding."""
    for seed in range(2):
        net, prompt = certain(dense(network(seed))), [1 + seed, 2, 3]
        late = (EOS, EOT) if hushed else ()
        ids, nfe, _ = sampler(net, prompt, 12, 24, 12, cfg_scale, hushed=late, **rule)
        hushed_options: dict[str, Any] = (
            {"confidence_eos_eot_inf": True, "stop_ids": (EOS, EOT)} if hushed else {}
        )
        options = {
            "steps": 12,
            "gen_length": 24,
            "block_length": 12,
            "cfg_scale": cfg_scale,
            **rule,
            **hushed_options,
        }
        output, count = compat.generate_fast(net, torch.tensor([prompt]), mask_id=MASK, **options)
        assert (output[0].tolist(), count) == (ids, nfe)


def test_rows_with_equal_prompts_draw_differently_and_as_alone() -> None:
    prompt = torch.tensor([[1, 2, 3]] * 3)
    options = {"steps": 4, "gen_length": 12, "block_length": 12, "temperature": 1.0, "seed": 5}
    rows = compat.generate(network(), prompt, **options)
    assert len({tuple(row) for row in rows.tolist()}) == 3
    for index, row in enumerate(rows):
        alone = compat.generate(network(), prompt[:1], **{**options, "seed": sample_seed(5, index)})
        assert torch.equal(alone[0], row)
