"""Between host and device: values go up without a wait, and one tensor comes back.

On the host itself nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def is_host(device: torch.device) -> bool:
    """Whether tensors of the device are in the host's memory."""
    return device.type == "cpu"


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's devices, which have nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def upload(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """Arrays of ids and of booleans on the device, in one copy that the host does not wait for."""
    if is_host(device):
        return [torch.from_numpy(array) for array in arrays]
    flat = torch.from_numpy(np.concatenate([array.ravel().astype(np.int64) for array in arrays]))
    if device.type == "cuda":
        flat = flat.pin_memory()
    parts = flat.to(device, non_blocking=True).split([array.size for array in arrays])
    return [
        part.view(array.shape).to(torch.bool if array.dtype == np.bool_ else torch.long)
        for part, array in zip(parts, arrays)
    ]


def download(groups: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Array]]:
    """The tensors of each group on the host; all in one copy, the only wait of a step.

    In a group all have one shape [rows, width], and the width is the same everywhere.
    """
    device = next(iter(groups[0].values())).device
    if is_host(device):
        return [{name: x.numpy() for name, x in group.items()} for group in groups]
    dtype = widest_float(device)  # holds every id and every float32
    fields = [x.to(dtype) for group in groups for x in group.values()]
    rows = np.cumsum([len(x) for x in fields])
    packed = np.split(torch.cat(fields).cpu().numpy(), rows[:-1])
    parts = iter(packed)
    return [
        {name: next(parts).astype(_numpy_dtype(x)) for name, x in group.items()} for group in groups
    ]


def _numpy_dtype(x: Tensor) -> np.dtype[np.generic]:
    return torch.empty(0, dtype=x.dtype).numpy().dtype
