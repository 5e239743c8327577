"""int8 weights through torchao: one scale per row, activations unchanged.

Matrices of the layers become int8, those of experts too; embedding, head, routers, norms and biases
stay. Matrices are dequantised for each product, so this saves memory, not time. torchao is imported
only when needed: that takes seconds.
"""

from __future__ import annotations

import importlib
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from creditdecoding.errors import MissingExtraError
from creditdecoding.models.weights import Transform

_EXCLUDED = ("embed", "head", "router")

_PART_ELEMENTS = 2**24
"""Elements of a long weight that are converted at a time."""


def is_quantised(name: str, tensor: Tensor) -> bool:
    """Whether the parameter `name` becomes int8: matrices and stacks of them in the layers."""
    return tensor.dim() > 1 and not any(part in _EXCLUDED for part in name.split("."))


def int8_bytes(tensor: Tensor) -> int:
    """Bytes in int8: one an element, and a float32 scale and a zero point for each row."""
    return tensor.numel() + 5 * math.prod(tensor.shape[:-1])


def conversion_bytes(tensor: Tensor, itemsize: int) -> int:
    """Bytes that the conversion needs besides the result.

    They are the original weight, the parts before they are joined, and float32 work on one part.
    """
    original = tensor.numel() * itemsize
    return original + int8_bytes(tensor) + 8 * min(tensor.numel(), _PART_ELEMENTS)


def int8_transform() -> Transform:
    """A function that converts a complete weight to int8, or returns it if it stays.

    Raises `MissingExtraError` without torchao.
    """
    torchao = _import_torchao()

    def convert(name: str, weight: Tensor) -> Tensor:
        if not is_quantised(name, weight):
            return weight
        with torch.inference_mode():  # an Int8Tensor made outside cannot be indexed inside
            return nn.Parameter(_to_int8(weight, torchao), requires_grad=False)

    return convert


def _to_int8(weight: Tensor, torchao: Any) -> Tensor:
    """An `Int8Tensor`, made in parts of whole rows.

    `torchao.quantize_` makes float32 copies of the whole weight: for 256 MiB of bfloat16 it takes
    1031 MiB in addition, this 274. It also skips experts, which are no linear layers.
    """
    rows = max(1, _PART_ELEMENTS // math.prod(weight.shape[1:]))
    parts = [
        torchao.Int8Tensor.from_hp(part, granularity=torchao.PerRow())
        for part in weight.split(rows)
    ]
    int8: Tensor = torchao.Int8Tensor(
        qdata=torch.cat([part.qdata for part in parts]),
        scale=torch.cat([part.scale for part in parts]),
        zero_point=torch.cat([part.zero_point for part in parts]),
        block_size=parts[0].block_size,
        dtype=weight.dtype,
    )
    return int8


def _import_torchao() -> Any:
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns about kernels for other machines
    try:
        return importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise MissingExtraError("torchao", "quant") from error
    finally:
        logging.disable(previous)
