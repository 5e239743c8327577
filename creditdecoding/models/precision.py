"""The precision of matrix products."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def faster_dtype(device: torch.device) -> torch.dtype:
    """The faster of bfloat16 and float32 for matrix products.

    bfloat16 is faster on GPUs, on CPUs with AMX, and on AMD's with AVX-512's bfloat16 instructions
    (2.4 times there). On a Xeon with these alone it takes 1.7 times as long: docs/research/log.md.
    """
    if device.type != "cpu" or torch.cpu._is_amx_tile_supported() or _is_amd_with_bfloat16():
        return torch.bfloat16
    return torch.float32


def cpu_capabilities() -> Mapping[str, object]:
    """What torch knows of the processor; nothing where torch is too old to tell."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities


def _is_amd_with_bfloat16() -> bool:
    capabilities = cpu_capabilities()
    is_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")
    return is_amd and bool(capabilities.get("avx512_bf16"))


def faster_products(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where that is faster."""
    is_faster = faster_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=is_faster)
