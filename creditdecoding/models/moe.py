"""Mixture of experts: routers, grouped experts and the expert that every token passes through.

Routers follow the released modelling files: softmax over all experts (LLaDA-MoE, SDAR-MoE), or
sigmoid scores with group-limited
choice and a correction bias (LLaDA2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from creditdecoding.config import MoEConfig


class SwiGLU(nn.Module):
    """Feed-forward `down(silu(gate(x)) * up(x))`."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, width, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Float[Tensor, "*any hidden"]) -> Float[Tensor, "*any hidden"]:
        found: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return found


def route(
    logits: Float[Tensor, "n experts"], bias: Tensor | None, config: MoEConfig
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The experts of each token and their weights in float32, by descending score of choice.

    Softmax: the k likeliest, weights as they are or renormalised. Sigmoid: choice by score + bias,
    inside the `top_groups`
    groups whose two best experts sum highest; weights without the bias, renormalised, times
    `scaling`.
    """
    wide = logits.float()
    score = wide.sigmoid() if config.score == "sigmoid" else wide.softmax(-1)
    choice = score if bias is None else score + bias
    if config.groups > 1:
        grouped = choice.unflatten(-1, (config.groups, -1))
        best = (
            grouped.topk(min(2, grouped.shape[-1]), dim=-1)
            .values.sum(-1)
            .topk(config.top_groups, dim=-1)
            .indices
        )
        open_ = torch.zeros(
            best.shape[0], config.groups, dtype=torch.bool, device=logits.device
        ).scatter(1, best, True)
        choice = grouped.masked_fill(~open_[..., None], -torch.inf).flatten(-2)
    experts = choice.topk(config.top_k, dim=-1).indices
    weight = score.gather(-1, experts)
    if config.renormalize:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    return experts, weight * config.scaling


def experts_plain(
    x: Tensor, experts: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor
) -> Float[Tensor, "n hidden"]:
    """The definition: each token through each of its experts, one at a time, summed in float32. For
    tests.
    """
    found = torch.zeros_like(x, dtype=torch.float32)
    for token in range(len(x)):
        for expert, share in zip(experts[token].tolist(), weight[token]):
            gate, up = F.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
            found[token] += F.linear(F.silu(gate) * up, down[expert]).float() * share
    return found.to(x.dtype)


def experts_grouped(
    x: Float[Tensor, "n hidden"],
    experts: Int[Tensor, "n k"],
    weight: Float[Tensor, "n k"],
    gate_up: Float[Tensor, "experts two_width hidden"],
    down: Float[Tensor, "experts hidden width"],
) -> Float[Tensor, "n hidden"]:
    """As `experts_plain`: tokens sorted by expert, then one product for each expert that has any.

    Results go back to their places and are added one choice after the other: the same sum on every
    device and in every run.
    """
    flat, order = experts.flatten().sort(stable=True)
    active, counts = flat.unique_consecutive(return_counts=True)
    inputs = x[order // experts.shape[1]]
    outputs = torch.empty_like(inputs)
    start = 0
    for expert, count in zip(active.tolist(), counts.tolist()):
        part = slice(start, start + count)
        gate, up = F.linear(inputs[part], gate_up[expert]).chunk(2, dim=-1)
        outputs[part] = F.linear(F.silu(gate) * up, down[expert])
        start += count
    each = (
        torch.empty_like(outputs).index_copy_(0, order, outputs).view(*experts.shape, x.shape[-1])
    )
    found = torch.zeros_like(x, dtype=torch.float32)
    for choice in range(experts.shape[1]):
        found.addcmul_(each[:, choice].float(), weight[:, choice, None].float())
    return found.to(x.dtype)


class MoE(nn.Module):
    """Router, experts as two stacked tensors, and the shared expert if there is one."""

    bias: Tensor | None

    def __init__(self, hidden: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(hidden, config.num_experts, bias=False)
        self.register_buffer("bias", torch.zeros(config.num_experts) if config.bias else None)
        self.gate_up = nn.Parameter(
            torch.empty(config.num_experts, 2 * config.intermediate_size, hidden)
        )
        self.down = nn.Parameter(torch.empty(config.num_experts, hidden, config.intermediate_size))
        self.shared = SwiGLU(hidden, config.shared_size) if config.shared_size else None

    def forward(
        self, x: Float[Tensor, "rows length hidden"]
    ) -> Float[Tensor, "rows length hidden"]:
        flat = x.reshape(-1, x.shape[-1])
        exact = self.config.router_float32
        logits = F.linear(flat.float(), self.router.weight.float()) if exact else self.router(flat)
        experts, weight = route(logits, self.bias, self.config)
        if not exact:
            weight = weight.to(x.dtype)
        found = experts_grouped(flat, experts, weight, self.gate_up, self.down)
        if self.shared is not None:
            found = found + self.shared(flat)
        return found.view_as(x)
