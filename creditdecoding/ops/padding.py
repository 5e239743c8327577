"""Tensors of different sizes joined along the first axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def stack_padded(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors one after the other; other axes are padded with zeros to the largest."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors))]
    return torch.cat([_pad(tensor, shape) for tensor in tensors])


def _pad(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor with zeros after its own numbers, so that all axes but the first have `shape`."""
    if list(tensor.shape[1:]) == list(shape):
        return tensor
    padding: list[int] = []
    for size, target in zip(reversed(tensor.shape[1:]), reversed(shape)):
        padding += [0, target - size]
    return F.pad(tensor, padding)


def of_width(values: Tensor, width: int) -> Tensor:
    """Values [rows, length, ...] cut to `width` positions or padded with zeros; values [rows] as
    they are.
    """
    if values.dim() < 2 or values.shape[1] == width:
        return values
    padding = [0, 0] * (values.dim() - 2) + [0, width - values.shape[1]]
    return F.pad(values, padding)
