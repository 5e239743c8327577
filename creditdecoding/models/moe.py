"""Mixture of experts: router, experts, and the shared expert that every token passes through.

Routers follow the released modelling files: softmax over all experts (LLaDA-MoE, SDAR-MoE), or
sigmoid scores with group-limited choice and a correction bias (LLaDA2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from creditdecoding.config import MoEConfig

STABLE_ROWS = 16
"""From this many rows on, a CPU's float32 product of a row does not depend on how many there are
(one thread; measured for widths of 64 to 2,816); with fewer rows other kernels run. In multiples of
it, no activation ends in a part of a vector.
"""


class SwiGLU(nn.Module):
    """Feed-forward layer `down(silu(gate(x)) * up(x))`."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, width, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Float[Tensor, "*any hidden"]) -> Float[Tensor, "*any hidden"]:
        output: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return output


def route(
    logits: Float[Tensor, "n experts"], bias: Tensor | None, config: MoEConfig
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The experts of each token and their weights in float32, highest choice score first.

    Softmax routers take the k most probable experts, with weights renormalised or not. Sigmoid
    routers choose by score + bias within the best groups; their weights leave out the bias and are
    renormalised and multiplied by `scaling`.
    """
    logits = logits.float()
    scores = logits.sigmoid() if config.score == "sigmoid" else logits.softmax(-1)
    choice_scores = scores if bias is None else scores + bias
    if config.groups > 1:
        choice_scores = _limit_to_groups(choice_scores, config)
    experts = choice_scores.topk(config.top_k, dim=-1).indices
    weights = scores.gather(-1, experts)
    if config.renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return experts, weights * config.scaling


def _limit_to_groups(choice_scores: Float[Tensor, "n experts"], config: MoEConfig) -> Tensor:
    """-inf outside of the `top_groups` groups whose two best experts have the highest sum."""
    grouped = choice_scores.unflatten(-1, (config.groups, -1))
    group_scores = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
    best = group_scores.topk(config.top_groups, dim=-1).indices
    excluded = torch.ones_like(group_scores, dtype=torch.bool).scatter(1, best, False)
    limited: Tensor = grouped.masked_fill(excluded[..., None], -torch.inf).flatten(-2)
    return limited


def experts_grouped(
    x: Float[Tensor, "n hidden"],
    experts: Int[Tensor, "n k"],
    weights: Float[Tensor, "n k"],
    gate_up: Float[Tensor, "experts two_width hidden"],
    down: Float[Tensor, "experts hidden width"],
) -> Float[Tensor, "n hidden"]:
    """Each token through each of its experts, weighted and summed in float32.

    Tokens are sorted by expert, so that every expert in use needs one product, on a CPU of at least
    `STABLE_ROWS` rows. Outputs are added one choice after the other, which gives the same sum on
    every device and in every run.
    """
    outputs = _expert_outputs(x, experts, gate_up, down)
    total = torch.zeros_like(x, dtype=torch.float32)
    for choice in range(experts.shape[1]):
        total.addcmul_(outputs[:, choice].float(), weights[:, choice, None].float())
    return total.to(x.dtype)


def _expert_outputs(
    x: Tensor, experts: Tensor, gate_up: Tensor, down: Tensor
) -> Float[Tensor, "n k hidden"]:
    """What each of a token's experts returns."""
    expert_of_input, order = experts.flatten().sort(stable=True)
    inputs = x[order // experts.shape[1]]
    outputs = torch.empty_like(inputs)
    active, counts = expert_of_input.unique_consecutive(return_counts=True)
    least_rows = STABLE_ROWS if x.device.type == "cpu" else 0
    start = 0
    for expert, count in zip(active.tolist(), counts.tolist()):
        end = start + count
        own = F.pad(inputs[start:end], (0, 0, 0, max(0, least_rows - count)))
        gate, up = F.linear(own, gate_up[expert]).chunk(2, dim=-1)
        outputs[start:end] = F.linear(F.silu(gate) * up, down[expert])[:count]
        start = end
    in_token_order = torch.empty_like(outputs).index_copy_(0, order, outputs)
    return in_token_order.view(*experts.shape, x.shape[-1])


class MoE(nn.Module):
    """Router, experts as two stacked tensors, and the shared expert if there is one."""

    bias: Tensor | None

    def __init__(self, hidden: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        experts, width = config.num_experts, config.intermediate_size
        self.router = nn.Linear(hidden, experts, bias=False)
        self.register_buffer("bias", torch.zeros(experts) if config.bias else None)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self.shared = SwiGLU(hidden, config.shared_size) if config.shared_size else None

    def forward(
        self, x: Float[Tensor, "rows length hidden"]
    ) -> Float[Tensor, "rows length hidden"]:
        tokens = x.reshape(-1, x.shape[-1])
        if self.config.router_float32:
            logits = F.linear(tokens.float(), self.router.weight.float())
        else:
            logits = self.router(tokens)
        experts, weights = route(logits, self.bias, self.config)
        if not self.config.router_float32:
            weights = weights.to(x.dtype)
        output = experts_grouped(tokens, experts, weights, self.gate_up, self.down)
        if self.shared is not None:
            output = output + self.shared(tokens)
        return output.view_as(x)
