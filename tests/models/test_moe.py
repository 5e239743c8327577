"""Routers against a plain re-statement, experts grouped by expert against one token at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.config import MoEConfig
from creditdecoding.models import moe
from creditdecoding.models.moe import MoE, experts_grouped, route

torch.set_num_threads(1)

EXPERTS, WIDTH, HIDDEN = 16, 12, 20
ROUTERS = {
    "softmax": MoEConfig(EXPERTS, 3, WIDTH),
    "softmax renormalised": MoEConfig(EXPERTS, 5, WIDTH, renormalize=True),
    "one expert": MoEConfig(EXPERTS, 1, WIDTH, scaling=0.5),
    "all experts": MoEConfig(EXPERTS, EXPERTS, WIDTH),
    "groups": MoEConfig(
        EXPERTS,
        4,
        WIDTH,
        score="sigmoid",
        renormalize=True,
        scaling=2.5,
        groups=4,
        top_groups=2,
        bias=True,
    ),
    "groups of one": MoEConfig(
        EXPERTS, 3, WIDTH, score="sigmoid", renormalize=True, groups=16, top_groups=5, bias=True
    ),
    "sigmoid": MoEConfig(EXPERTS, 3, WIDTH, score="sigmoid", bias=True),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_route(logits: list[float], bias: list[float], config: MoEConfig) -> dict[int, float]:
    """Expert -> weight of one token, with Python's numbers."""
    if config.score == "softmax":
        exps = [torch.tensor(x, dtype=torch.float64).exp().item() for x in logits]
        score = [x / sum(exps) for x in exps]
    else:
        score = [1 / (1 + torch.tensor(-x, dtype=torch.float64).exp().item()) for x in logits]
    choice = [s + b for s, b in zip(score, bias)]
    size = len(choice) // config.groups
    groups = [list(range(g * size, (g + 1) * size)) for g in range(config.groups)]
    best = sorted(
        groups, key=lambda group: -sum(sorted((choice[i] for i in group), reverse=True)[:2])
    )[: config.top_groups]
    open_ = [i for group in best for i in group] if config.groups > 1 else list(range(len(choice)))
    experts = sorted(open_, key=lambda i: -choice[i])[: config.top_k]
    total = sum(score[i] for i in experts) if config.renormalize else 1.0
    return {i: score[i] / total * config.scaling for i in experts}


@pytest.mark.parametrize("name", list(ROUTERS))
def test_routers_equal_the_plain_statement(name: str) -> None:
    config = ROUTERS[name]
    logits, bias = 2 * noise(40, EXPERTS), 0.3 * noise(EXPERTS, seed=1) if config.bias else None
    experts, weight = route(logits, bias, config)
    assert weight.dtype == torch.float32 and experts.shape == weight.shape == (40, config.top_k)
    for token in range(40):
        expected = plain_route(
            logits[token].tolist(), [0.0] * EXPERTS if bias is None else bias.tolist(), config
        )
        weights = dict(zip(experts[token].tolist(), weight[token].tolist()))
        assert weights.keys() == expected.keys()
        assert all(abs(weights[i] - expected[i]) < 1e-6 for i in expected)


def test_the_bias_moves_the_choice_and_not_the_weight() -> None:
    config, logits = ROUTERS["sigmoid"], noise(1, EXPERTS)
    worst = int(logits.argmin())
    bias = torch.zeros(EXPERTS)
    bias[worst] = 2.0
    experts, weight = route(logits, bias, config)
    assert int(experts[0, 0]) == worst and torch.isclose(weight[0, 0], logits[0, worst].sigmoid())


def experts_one_by_one(
    x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """The definition: each token through each of its experts, summed in float32."""
    total = torch.zeros_like(x, dtype=torch.float32)
    for token in range(len(x)):
        for expert, weight in zip(experts[token].tolist(), weights[token]):
            gate, up = F.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
            total[token] += F.linear(F.silu(gate) * up, down[expert]).float() * weight
    return total.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 2, 33])
def test_grouped_experts_equal_one_token_at_a_time(tokens: int, dtype: torch.dtype) -> None:
    config = MoEConfig(EXPERTS, 3, WIDTH)
    x = noise(tokens, HIDDEN, seed=tokens).to(dtype)
    gate_up, down = (
        noise(EXPERTS, *shape, seed=2).mul(0.3).to(dtype)
        for shape in ((2 * WIDTH, HIDDEN), (HIDDEN, WIDTH))
    )
    experts, weight = route(noise(tokens, EXPERTS, seed=3), None, config)
    before = x.clone()
    output = experts_grouped(x, experts, weight, gate_up, down)
    expected = experts_one_by_one(x, experts, weight, gate_up, down)
    assert output.dtype == dtype and torch.equal(x, before)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=0)


def experts_of(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random weights, of sizes that every way can take."""
    shapes = ((EXPERTS, 32, 24), (EXPERTS, 24, 16))
    gate_up, down = (noise(*shape, seed=2).mul(0.3).to(dtype) for shape in shapes)
    return gate_up, down


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 5, 40, 700])
def test_fixed_shapes_give_the_bits_of_the_loop(
    count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the weights are copied a few at a time; torch's own product to its tolerance."""
    gate_up, down = experts_of(dtype)
    inputs = noise(count, 24).to(dtype)
    expert = torch.randint(3, EXPERTS - 2, (count,), generator=torch.manual_seed(1)).sort().values
    expected = moe.looped(inputs, expert, gate_up, down)
    assert torch.equal(moe.in_blocks(inputs, expert, gate_up, down), expected)
    monkeypatch.setattr(moe, "COPIED_BYTES", 3 * 1152 * gate_up.element_size())
    assert torch.equal(moe.in_blocks(inputs, expert, gate_up, down), expected)
    if hasattr(F, "grouped_mm"):
        torch.testing.assert_close(moe.multiplied(inputs, expert, gate_up, down), expected)


def test_one_expert_may_take_all_tokens() -> None:
    gate_up, down = experts_of(torch.float32)
    inputs, expert = noise(50, 24), torch.full((50,), EXPERTS - 1)
    expected = moe.looped(inputs, expert, gate_up, down)
    assert torch.equal(moe.in_blocks(inputs, expert, gate_up, down), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_way_of_a_device_gives_the_bits_of_the_host(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_up, down = experts_of(dtype)
    x = noise(33, 24).to(dtype)
    experts, weight = route(noise(33, EXPERTS, seed=3), None, MoEConfig(EXPERTS, 3, 16))
    with torch.no_grad():
        expected = experts_grouped(x, experts, weight, gate_up, down)
        monkeypatch.setattr(moe, "is_host", lambda device: False)
        monkeypatch.delattr(moe, "looped")
        assert torch.equal(experts_grouped(x, experts, weight, gate_up, down), expected)


def test_an_expert_that_no_token_takes_does_nothing() -> None:
    x, experts, weight = noise(5, HIDDEN), torch.tensor([[1, 3]] * 5), torch.full((5, 2), 0.5)
    gate_up, down = noise(EXPERTS, 2 * WIDTH, HIDDEN), noise(EXPERTS, HIDDEN, WIDTH)
    gate_up[0], down[15] = torch.nan, torch.nan
    for way in (moe.looped, moe.in_blocks):
        outputs = way(x, experts[:, 0].contiguous(), gate_up, down)
        assert bool(outputs.isfinite().all())
    assert bool(experts_grouped(x, experts, weight, gate_up, down).isfinite().all())


@pytest.mark.parametrize("name", list(ROUTERS))
def test_a_layer_in_bf16_is_near_the_layer_in_float32(name: str) -> None:
    config = ROUTERS[name]
    layers = [MoE(HIDDEN, config) for _ in range(2)]
    with torch.no_grad():
        for i, weight in enumerate(layers[0].parameters()):
            weight.copy_((noise(*weight.shape, seed=i) * weight.shape[-1] ** -0.5).bfloat16())
        layers[1].load_state_dict(layers[0].state_dict())
        for weight in layers[1].parameters():
            weight.data = weight.data.bfloat16()
        x = noise(3, 11, HIDDEN, seed=9).bfloat16()
        exact, rounded = layers[0](x.float()), layers[1](x)
    assert rounded.dtype == torch.bfloat16 and rounded.shape == x.shape
    close = (rounded - exact).abs().amax(
        -1
    ) < 0.05  # a token whose router is in doubt may take another expert
    assert close.float().mean() > 0.9
    assert layers[1].bias is None or layers[1].bias.dtype == torch.float32
