"""Low-rank adapters (arXiv 2106.09685) on the transformer's matrices, and what else is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from creditdecoding.models.transformer import Transformer

MATRICES = ("q", "k", "v", "o", "mlp.gate", "mlp.up", "mlp.down")
"""The adapted modules of a layer: all that multiply."""


class LoRALinear(nn.Module):
    """A frozen linear layer and a trained update of low rank: y = W x + b + scale B A x."""

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
    ) -> None:
        super().__init__()
        weight = base.weight
        self.weight = weight.requires_grad_(False)
        self.bias = None if base.bias is None else base.bias.requires_grad_(False)
        self.scale = alpha / rank
        height, width = weight.shape
        self.lora_a = nn.Parameter(torch.zeros(rank, width, device=weight.device))
        self.lora_b = nn.Parameter(torch.zeros(height, rank, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        output = F.linear(x, self.weight, self.bias)
        reduced = F.linear(x, self.lora_a)
        update = F.linear(reduced, self.lora_b)
        return torch.add(output, update, alpha=self.scale)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight with the update, in float32."""
        update = self.lora_b @ self.lora_a
        return self.weight.float() + self.scale * update


class MaskEmbedding(nn.Module):
    """The trained embedding of the mask, in place of its row in the table, which may be the head
    too. The row's own gradients cancel.
    """

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.row = nn.Parameter(row.detach().float().clone())

    def forward(self, is_mask: Tensor, table_row: Tensor) -> Tensor:
        """What is to be added to the embeddings [rows, length, hidden], in which masks have the
        table's row [hidden].
        """
        difference = self.row - table_row.float()
        return is_mask[..., None] * difference


def adapt_layers(
    model: Transformer,
    rank: int,
    alpha: float,
    generator: torch.Generator,
) -> None:
    """Replace the matrices of all layers by `LoRALinear`; train these and the norms, nothing else.

    A is uniform as in PEFT (Kaiming), B zero: the network computes what it computed.
    """
    model.requires_grad_(False)
    for layer in model.layers:
        for name in MATRICES:
            matrix = layer.get_submodule(name)
            assert isinstance(matrix, nn.Linear)
            adapted = LoRALinear(matrix, rank, alpha)
            bound = 1 / math.sqrt(adapted.lora_a.shape[1])
            adapted.lora_a.data.uniform_(-bound, bound, generator=generator)
            parent, _, attribute = name.rpartition(".")
            setattr(layer.get_submodule(parent), attribute, adapted)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = weight.data.float()
            weight.requires_grad_(True)


def lora_layers(model: Transformer) -> Iterator[tuple[str, LoRALinear]]:
    """Every adapted matrix with its name, such as layers.3.mlp.up."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module
