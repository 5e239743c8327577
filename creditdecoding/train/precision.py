"""The precision of matrix products in training."""

from __future__ import annotations

import torch


def faster_dtype(device: torch.device) -> torch.dtype:
    """The faster of bfloat16 and float32 for matrix products.

    bfloat16 is faster on GPUs and on CPUs with AMX. On a CPU with AVX-512 alone it takes 1.7 times
    as long: docs/research/log.md.
    """
    if device.type != "cpu" or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def faster_products(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where that is faster."""
    is_faster = faster_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=is_faster)
