"""Mixture of experts: router, experts, and the shared expert that every token passes through.

Routers follow the released modelling files: softmax over all experts (LLaDA-MoE, SDAR-MoE), or
sigmoid scores with group-limited choice and a correction bias (LLaDA2).

Tokens are sorted by expert, each as often as it has experts. What the experts then compute is the
same in three ways, to the bit in the first and the last:

- `looped`, the plain way: one product for each expert in use. The host must know how many inputs
  each has, and would wait for a device that counted them.
- `multiplied`: torch's product of sorted rows with several matrices, on GPUs that have one.
- `in_blocks`, on other devices: a batched product of blocks. A block holds up to `STABLE_ROWS`
  inputs of one expert, and the number of blocks follows from the shapes.

Seven inputs of three experts in blocks of two rows. `-` is padding, and the last block is spare,
because each expert might have needed one more than the full ones:

    inputs     a a a b c c c
    blocks     a a   a -   b -   c c   c -   - -
    expert     a     a     b     c     c     any
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from creditdecoding.config import MoEConfig
from creditdecoding.ops.transfer import is_host

STABLE_ROWS = 16
"""From this many rows on, a CPU's float32 product of a row does not depend on how many there are
(one thread; measured for widths of 64 to 2,816); with fewer rows other kernels run. In multiples of
it, no activation ends in a part of a vector.
"""
COPIED_BYTES = 256 << 20
"""Weights of experts that are copied at a time where experts are computed in blocks."""


def stable_rows(count: int) -> int:
    """`count` rounded up to a multiple of `STABLE_ROWS`."""
    return -(-count // STABLE_ROWS) * STABLE_ROWS


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

    - `x`: hidden states, one for each token.
    - `experts`, `weights`: from `route`.
    - `gate_up`, `down`: the weights of all experts, stacked; gate first, then up.

    Outputs are added one choice after the other, which gives the same sum on every device and in
    every run.
    """
    expert, order = experts.flatten().sort(stable=True)
    outputs = _way(x, gate_up)(x[order // experts.shape[1]], expert, gate_up, down)
    in_token_order = torch.empty_like(outputs).index_copy(0, order, outputs)
    by_choice = in_token_order.view(*experts.shape, x.shape[-1])
    total = torch.zeros_like(x, dtype=torch.float32)
    for choice in range(experts.shape[1]):
        total.addcmul_(by_choice[:, choice].float(), weights[:, choice, None].float())
    return total.to(x.dtype)


def _way(x: Tensor, gate_up: Tensor) -> Callable[..., Tensor]:
    """How the outputs of experts are computed.

    - The host loops over the experts in use; in a compiled graph the loop is one operation.
    - A device that would make the host wait multiplies by all experts at once.

    Training takes the plain way everywhere: its steps wait for the device in any case.
    """
    if torch.is_grad_enabled():
        return looped
    if is_host(x.device):
        return _looped_op if torch.compiler.is_compiling() else looped
    return multiplied if has_grouped_product(gate_up) else in_blocks


def has_grouped_product(weights: Tensor) -> bool:
    """Whether torch multiplies by such weights [experts, out, in] without waiting.

    Its fast product is for bfloat16 from the H100 on, with rows of whole 16 bytes. Elsewhere the
    same function exists, but counts on the host.
    """
    is_aligned = not any(size % 8 for size in weights.shape[1:])
    if weights.device.type != "cuda" or weights.dtype != torch.bfloat16 or not is_aligned:
        return False
    return hasattr(F, "grouped_mm") and torch.cuda.get_device_capability(weights.device)[0] >= 9


def looped(inputs: Tensor, expert: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """What the experts return, [inputs, hidden], by one product for each expert in use.

    - `inputs` [inputs, hidden], `expert` [inputs]: which expert each has, in ascending order.
    - `gate_up` [experts, 2 width, hidden], `down` [experts, hidden, width].

    On a CPU a product has at least `STABLE_ROWS` rows.
    """
    outputs = torch.empty_like(inputs)
    active, counts = expert.unique_consecutive(return_counts=True)
    least_rows = STABLE_ROWS if inputs.device.type == "cpu" else 0
    start = 0
    for index, count in zip(active.tolist(), counts.tolist()):
        end = start + count
        own = F.pad(inputs[start:end], (0, 0, 0, max(0, least_rows - count)))
        gate, up = F.linear(own, gate_up[index]).chunk(2, dim=-1)
        outputs[start:end] = F.linear(F.silu(gate) * up, down[index])[:count]
        start = end
    return outputs


SCHEMA = "(Tensor inputs, Tensor expert, Tensor gate_up, Tensor down) -> Tensor"
_looped_op = torch.library.custom_op(
    "creditdecoding::looped", looped, mutates_args=(), schema=SCHEMA
)
"""`looped` as one operation of a compiled graph, which the loop would cut in two."""
_looped_op.register_fake(lambda inputs, expert, gate_up, down: torch.empty_like(inputs))


def multiplied(inputs: Tensor, expert: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """As `looped`, by torch's product of sorted rows with several matrices.

    Row i is multiplied by the first matrix whose end is behind i, so an expert without inputs ends
    where the one before it does. Nothing is padded or copied.
    """
    ends = _ends(expert, len(gate_up)).int()
    hidden = F.grouped_mm(inputs, gate_up.transpose(1, 2), offs=ends)
    gate, up = hidden.chunk(2, dim=-1)
    return F.grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)


def _ends(expert: Tensor, experts: int) -> Tensor:
    """Where the inputs of each of the `experts` end, [experts]."""
    return torch.searchsorted(expert, torch.arange(experts, device=expert.device), right=True)


def in_blocks(inputs: Tensor, expert: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """As `looped`, in blocks of `STABLE_ROWS` inputs of one expert, by a batched product.

    The shapes depend on the number of inputs and of experts alone:

    - Of c inputs of an expert, the last block may be part full, so that it has at most
      c // STABLE_ROWS + 1 blocks, and all experts together have at most
      inputs // STABLE_ROWS + min(inputs, experts). Blocks that are left hold zeros and go through
      the last expert; nothing reads what comes out.
    - Weights are copied for each block, because the batched product needs them side by side. A
      prompt has hundreds of blocks, so `COPIED_BYTES` are copied at a time.
    """
    row, end_block = _block_rows(expert, len(gate_up))
    blocks = len(inputs) // STABLE_ROWS + min(len(inputs), len(gate_up))
    padded = inputs.new_zeros(blocks * STABLE_ROWS, inputs.shape[1]).index_copy(0, row, inputs)
    rows = padded.view(blocks, STABLE_ROWS, inputs.shape[1])
    block = torch.arange(blocks, device=expert.device)
    owner = torch.searchsorted(end_block, block, right=True).clamp(max=len(gate_up) - 1)
    step = max(1, COPIED_BYTES * len(gate_up) // (gate_up.nbytes + down.nbytes))
    parts = zip(rows.split(step), owner.split(step))
    outputs = torch.cat([_through(part, gate_up[own], down[own]) for part, own in parts])
    return outputs.flatten(0, 1)[row]


def _block_rows(expert: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """The row of each input when those of every expert are padded to whole blocks, [inputs], and
    where the blocks of each expert end, [experts].

    An input moves by what the experts before its own are padded with.
    """
    ends = _ends(expert, experts)
    counts = ends.diff(prepend=ends.new_zeros(1))
    blocks_of = -(-counts // STABLE_ROWS)
    end_block = blocks_of.cumsum(0)
    shift = (end_block - blocks_of) * STABLE_ROWS - (ends - counts)
    return torch.arange(len(expert), device=expert.device) + shift[expert], end_block


def _through(rows: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Each block of inputs through an expert of its own.

    `rows` [blocks, rows, hidden]; `gate_up` and `down`: the weights of one expert a block.
    """
    gate, up = torch.bmm(rows, gate_up.transpose(1, 2)).chunk(2, dim=-1)
    return torch.bmm(F.silu(gate) * up, down.transpose(1, 2))


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
        """The sum of what the chosen experts return and, if there is one, the shared expert.

        Each position is on its own; padding goes through experts too, and changes no other row.
        """
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
