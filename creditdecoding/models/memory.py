"""Memory that a checkpoint needs and that is available; too little is refused before loading.

The need is that of the weights and of the files mapped while they are read. What requests take in
addition is `footprint`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models.quantize import conversion_bytes, int8_bytes, is_quantised
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import WINDOW, read_headers, state_tensors
from creditdecoding.wording import count

MAX_PARAMETERS_PER_BYTE = 64
"""A config.json that describes more parameters for each byte of the weight files is refused."""

FreeBytes = Callable[[torch.device], int | None]
"""Bytes available on a device; None if unknown."""


def weight_bytes(model: nn.Module, dtype: torch.dtype, quantize: str = "none") -> int:
    """Bytes of the model's weights, from the shapes alone."""
    total = 0
    for name, tensor in state_tensors(model).items():
        if quantize == "int8" and is_quantised(name, tensor):
            total += int8_bytes(tensor)
        elif isinstance(tensor, nn.Parameter):
            total += tensor.numel() * dtype.itemsize
        else:
            total += tensor.nbytes
    return total


@dataclass(frozen=True)
class Footprint:
    """Bytes that a request takes.

    `cached` for each position in the KV cache, `computed` for each position of a pass (activations,
    an estimate), `logits` for each position whose logits are read.
    """

    cached: int
    computed: int
    logits: int


def footprint(model: object, vocab: int) -> Footprint:
    """The footprint from shapes alone; of an external model only float32 logits are known."""
    if not isinstance(model, Transformer):
        return Footprint(cached=0, computed=0, logits=4 * vocab)
    config, itemsize = model.config, model.norm.weight.dtype.itemsize
    kv_size = config.num_kv_heads * config.head_dim
    q_size = config.num_heads * config.head_dim
    inner = config.intermediate_size
    if config.moe is not None:
        routed = config.moe.top_k * config.moe.intermediate_size
        inner = max(inner, routed + config.moe.shared_size)
    activations = 4 * config.hidden_size + 2 * (q_size + 2 * kv_size) + 3 * inner
    return Footprint(
        cached=2 * config.num_layers * kv_size * itemsize,
        computed=activations * itemsize,
        logits=config.embedding_rows * itemsize,
    )


def mapped_bytes(model: nn.Module, files: list[Path]) -> int:
    """Bytes mapped on the host at a time while reading: a file, or a window of a long one."""
    largest_file = max((path.stat().st_size for path in files), default=0)
    largest_tensor = 4 * max(tensor.numel() for tensor in state_tensors(model).values())
    return min(largest_file, WINDOW + largest_tensor)


def free_bytes(device: torch.device) -> int | None:
    """Free memory: from the driver on a GPU, from /proc and control groups on a CPU."""
    if device.type == "cuda":
        pooled = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + pooled
    return host_free_bytes() if device.type == "cpu" else None


def host_free_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """The least of what the system and each control group of this process leave; None off Linux."""
    available = re.findall(r"^MemAvailable:\s+(\d+) kB", _read(proc / "meminfo"), re.MULTILINE)
    limits = [1024 * int(kib) for kib in available]
    for group, version in _control_groups(_read(proc / "self/cgroup"), cgroups):
        room = _group_free_bytes(group, *version)
        if room is not None:
            limits.append(room)
    return min(limits, default=None)


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def _control_groups(membership: str, cgroups: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The control groups that limit this process's memory, with the names of their files."""
    for line in membership.splitlines():
        _, controller, path = line.split(":", 2)
        if controller not in ("", "memory"):
            continue
        root = cgroups / controller
        group = root / path.lstrip("/")
        for ancestor in (group, *group.parents):
            if ancestor.is_relative_to(root):
                yield ancestor, _V1 if controller else _V2


def _group_free_bytes(group: Path, limit_file: str, usage_file: str, cached: str) -> int | None:
    """What a control group leaves, counting cached files as free; None without a limit."""
    limit, usage = _read(group / limit_file).strip(), _read(group / usage_file).strip()
    if not (limit.isdigit() and usage.isdigit()) or int(limit) >= 2**60:
        return None
    cached_files = re.search(rf"^{cached} (\d+)", _read(group / "memory.stat"), re.MULTILINE)
    droppable = int(cached_files[1]) if cached_files else 0
    return max(0, int(limit) - int(usage) + droppable)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def format_bytes(count: int) -> str:
    """`1536` -> `1.5 KiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB" if value < 1024 else f"{value / 1024:.2f} TiB"


def check_size_of_files(config: ModelConfig, files: list[Path]) -> None:
    """Refuse a network far larger than its weight files before spending work on its shapes.

    Raises `CheckpointError`.
    """
    file_bytes = sum(path.stat().st_size for path in files)
    if config.num_parameters() <= MAX_PARAMETERS_PER_BYTE * file_bytes:
        return
    read_headers(files)  # a truncated file has an error of its own
    experts = "" if config.moe is None else f", {count(config.moe.num_experts, 'expert')}"
    raise CheckpointError(
        "config.json describes a network far larger than the weight files",
        given=f"{count(config.num_layers, 'layer')} of width {config.hidden_size}{experts}, "
        f"{config.embedding_rows} ids",
        allowed=f"what {format_bytes(file_bytes)} of weights can hold",
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
    """Refuse to load `model` if it needs more memory than is `free`. Raises `CheckpointError`."""
    host = torch.device("cpu")
    weights, mapped = weight_bytes(model, dtype, quantize), mapped_bytes(model, files)
    converting = _conversion_bytes(model, dtype) if quantize == "int8" else 0
    if device.type == "cpu":
        needs = [(host, weights + converting + mapped)]
    else:
        needs = [(device, weights + converting), (host, mapped)]
    for memory, need in needs:
        available = free(memory)
        if available is not None and need > available:
            raise CheckpointError(
                f"not enough memory on {memory}: {format_bytes(need)} needed, "
                f"{format_bytes(available)} available",
                hint="Use dtype bfloat16, quantize int8 (credit info shows what they need) or "
                "another device, or free some memory.",
            )


def _conversion_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes needed in addition while one weight is converted to int8."""
    converted = [
        conversion_bytes(tensor, dtype.itemsize)
        for name, tensor in state_tensors(model).items()
        if is_quantised(name, tensor)
    ]
    return max(converted, default=0)
