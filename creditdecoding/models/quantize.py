"""int8 weights through torchao: a scale for each row, activations as they are.

Matrices of the layers become int8, experts' too; embedding, head, routers, norms and biases stay.
The matrix is turned back for each
product, so this saves memory, not time. The package is looked up when it is asked for: importing it
takes seconds.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from creditdecoding.errors import MissingExtraError

_KEPT = ("embed", "head", "router")
_AT_A_TIME = 2**24


def is_quantised(name: str, tensor: Tensor) -> bool:
    """Whether the parameter `name` becomes int8: matrices, and stacks of them, but for embedding,
    head and routers.
    """
    return tensor.dim() > 1 and not any(part in _KEPT for part in name.split("."))


def int8_bytes(tensor: Tensor) -> int:
    """Bytes of a matrix, or a stack of them, in int8: a byte a weight, and a float32 scale and a
    zero point a row.
    """
    return tensor.numel() + 5 * math.prod(tensor.shape[:-1])


def conversion_bytes(tensor: Tensor, itemsize: int) -> int:
    """Bytes that making it needs beside the result: the weight as it was, the parts beside the
    whole, and float32 work on a part.
    """
    return tensor.numel() * itemsize + int8_bytes(tensor) + 8 * min(tensor.numel(), _AT_A_TIME)


def int8_transform() -> Callable[[str, Tensor], Tensor]:
    """What turns a finished weight into int8, or leaves it. Raises `MissingExtraError` without
    torchao.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of kernels for other machines
    try:
        torchao = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise MissingExtraError("torchao", "quant") from error
    finally:
        logging.disable(before)

    def finish(name: str, tensor: Tensor) -> Tensor:
        if not is_quantised(name, tensor):
            return tensor
        with torch.inference_mode():  # a stack of matrices of its own kind can be indexed in inference mode only if made there
            step = max(
                1, _AT_A_TIME // math.prod(tensor.shape[1:])
            )  # scales belong to rows, so parts may be made one by one
            parts = [
                torchao.Int8Tensor.from_hp(part, granularity=torchao.PerRow())
                for part in tensor.split(step)
            ]
            qdata, scale, zero = (
                torch.cat([getattr(part, name) for part in parts])
                for name in ("qdata", "scale", "zero_point")
            )
            made = torchao.Int8Tensor(
                qdata, scale, parts[0].block_size, tensor.dtype, zero_point=zero
            )
            return nn.Parameter(made, requires_grad=False)

    return finish
