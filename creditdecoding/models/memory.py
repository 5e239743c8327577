"""What a checkpoint needs in memory and what there is; refused with figures before any weight is
read.

Counted are the weights, and what reading them maps on the host; what rows take on top is
`footprint`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models.quantize import conversion_bytes, int8_bytes, is_quantised
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import WINDOW, read_headers, state_tensors

_SPARE = 64
"""Parameters for each byte of the weight files, above which a network is not looked at tensor by
tensor.
"""

FreeBytes = Callable[[torch.device], int | None]
"""Bytes that may be taken on a device, None where that cannot be told."""


def weight_bytes(model: nn.Module, dtype: torch.dtype, quantize: str = "none") -> int:
    """Bytes of the model's weights, from the shapes alone."""
    return sum(
        _bytes(name, tensor, dtype, quantize) for name, tensor in state_tensors(model).items()
    )


def _bytes(name: str, tensor: Tensor, dtype: torch.dtype, quantize: str) -> int:
    if quantize == "int8" and is_quantised(name, tensor):
        return int8_bytes(tensor)
    return tensor.numel() * (dtype if isinstance(tensor, nn.Parameter) else tensor.dtype).itemsize


@dataclass(frozen=True)
class Footprint:
    """Bytes that a row takes: `column` a cached position, `position` a computed one (activations,
    an estimate), `line` a read one (logits).
    """

    cached: int
    computed: int
    logits: int


def footprint(model: object, vocab: int) -> Footprint:
    """What rows take, from the shapes alone; of a model that is not this package's own, no more
    than its logits in float32 is known.
    """
    if not isinstance(model, Transformer):
        return Footprint(0, 0, 4 * vocab)
    config, size = model.config, model.norm.weight.dtype.itemsize
    kv, q = config.num_kv_heads * config.head_dim, config.num_heads * config.head_dim
    moe = config.moe
    inner = (
        config.intermediate_size
        if moe is None
        else max(config.intermediate_size, moe.top_k * moe.intermediate_size + moe.shared_size)
    )
    return Footprint(
        2 * config.num_layers * kv * size,
        (4 * config.hidden_size + 2 * (q + 2 * kv) + 3 * inner) * size,
        config.embedding_rows * size,
    )


def mapped_bytes(model: nn.Module, files: list[Path]) -> int:
    """Bytes that reading the files maps on the host at a time: one file, of a long one some of it."""
    largest = 4 * max(tensor.numel() for tensor in state_tensors(model).values())
    return min(max((path.stat().st_size for path in files), default=0), WINDOW + largest)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that may be taken on `device`: of a GPU what its driver says, on the host what the
    system and its control group leave.
    """
    if device.type == "cuda":
        pooled = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + pooled
    return host_free_bytes() if device.type == "cpu" else None


def host_free_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """The least of what the system has available and what each control group of this process may
    still take; None off Linux.
    """
    found = [
        1024 * int(kib)
        for kib in re.findall(r"^MemAvailable:\s+(\d+) kB", _read(proc / "meminfo"), re.M)
    ]
    for line in _read(proc / "self/cgroup").splitlines():
        _, kind, path = line.split(":", 2)
        if kind not in ("", "memory"):
            continue
        top = cgroups / kind
        here = top / path.lstrip("/")
        inside = [here, *(each for each in here.parents if each == top or top in each.parents)]
        found += [
            room for each in inside if (room := _room(each, *(_V1 if kind else _V2))) is not None
        ]
    return min(found, default=None)


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def _room(group: Path, limit: str, usage: str, cached: str) -> int | None:
    """What a control group may still take, cached files that can be dropped not counted; None
    without a limit.
    """
    most, used = _read(group / limit).strip(), _read(group / usage).strip()
    if not (most.isdigit() and used.isdigit()) or int(most) >= 2**60:
        return None
    files = re.search(rf"^{cached} (\d+)", _read(group / "memory.stat"), re.M)
    return max(0, int(most) - int(used) + (int(files[1]) if files else 0))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def format_bytes(count: int) -> str:
    """Bytes for people."""
    unit = min(max(int(math.log2(max(count, 1)) // 10), 0), 4)
    return (
        f"{count} B"
        if unit == 0
        else f"{count / 1024**unit:.{2 if unit > 2 else 1}f} {('KiB', 'MiB', 'GiB', 'TiB')[unit - 1]}"
    )


def check_size_of_files(config: ModelConfig, files: list[Path]) -> None:
    """Refuse a network far larger than its weight files, before work is spent on its shapes. Raises
    `CheckpointError`.
    """
    held = sum(path.stat().st_size for path in files)
    if config.num_parameters() > _SPARE * held:
        read_headers(files)  # a file that is cut off says so itself
        experts = f", {config.moe.num_experts} experts" if config.moe is not None else ""
        raise CheckpointError(
            "config.json describes a network far larger than the weight files",
            given=f"{config.num_layers} layers of width {config.hidden_size}{experts}, {config.embedding_rows} ids",
            allowed=f"what {format_bytes(held)} of weights can hold",
            hint="config.json and weights do not belong together.",
        )


def check_memory(
    model: nn.Module,
    files: list[Path],
    device: torch.device,
    dtype: torch.dtype,
    quantize: str,
    free: FreeBytes = free_bytes,
) -> None:
    """Hold the need of loading `model` to what is `free` on the device and the host. Raises
    `CheckpointError`.
    """
    host = torch.device("cpu")
    weights, reading = weight_bytes(model, dtype, quantize), mapped_bytes(model, files)
    matrices = [
        tensor
        for name, tensor in state_tensors(model).items()
        if quantize == "int8" and is_quantised(name, tensor)
    ]
    making = max((conversion_bytes(tensor, dtype.itemsize) for tensor in matrices), default=0)
    needs = (
        [(device, weights + making), (host, reading)]
        if device.type != "cpu"
        else [(host, weights + making + reading)]
    )
    for where, need in needs:
        there = free(where)
        if there is not None and need > there:
            kind = str(dtype).removeprefix("torch.")
            parts = f"weights in {'int8 and ' if quantize == 'int8' else ''}{kind} {format_bytes(weights)}, loading them {format_bytes(need - weights)}"
            if where != device:
                parts = "to read the files"
            raise CheckpointError(
                f"not enough memory on {where}: {format_bytes(need)} needed ({parts}), {format_bytes(there)} available",
                hint=_way_out(model, dtype, quantize),
            )


def _way_out(model: nn.Module, dtype: torch.dtype, quantize: str) -> str:
    """Smaller ways to load the same model, with figures."""
    half = torch.bfloat16
    smaller = (
        [("dtype bfloat16", weight_bytes(model, half, quantize))] if dtype.itemsize > 2 else []
    )
    if quantize != "int8":
        smaller.append(
            (
                f"quantize int8{' with dtype bfloat16' if dtype.itemsize > 2 else ''}",
                weight_bytes(model, half, "int8"),
            )
        )
    ways = " or ".join(f"{how} ({format_bytes(count)})" for how, count in smaller)
    return (
        f"Use {ways}, another device, or free some memory."
        if ways
        else "Use another device, a smaller model, or free some memory."
    )
