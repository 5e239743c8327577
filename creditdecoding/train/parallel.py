"""Processes that share each training step: each has its own rows, gradients are averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from creditdecoding.child_processes import end_processes, end_with_parent, start_process

_TIMEOUT = timedelta(minutes=15)


def join_group(rank: int, world: int, store_file: Path) -> None:
    """Join the other processes through a file; only the loopback interface is used."""
    if rank:
        end_with_parent()
    store = dist.FileStore(str(store_file), world)  # type: ignore[attr-defined]
    dist.init_process_group(
        "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=_TIMEOUT,
    )


@contextlib.contextmanager
def peer_processes(
    world: int,
    store_file: Path,
    target: Callable[..., None],
    *args: Any,
) -> Iterator[None]:
    """Run `target(rank, world, store_file, *args)` in `world - 1` processes while the body runs as
    rank 0.
    """
    store_file.unlink(missing_ok=True)
    processes: list[SpawnProcess] = []
    try:
        for rank in range(1, world):
            processes.append(start_process(target, (rank, world, store_file, *args)))
        if world > 1:
            join_group(0, world, store_file)
        yield
    finally:
        end_processes(processes)
        if dist.is_initialized():
            dist.destroy_process_group()
        store_file.unlink(missing_ok=True)


def average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    if not dist.is_initialized():
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [gradient.numel() for gradient in gradients]
    parts = flat.split(sizes)
    for gradient, part in zip(gradients, parts):
        gradient.copy_(part.view_as(gradient))


def sum_over_processes(*values: float) -> list[float]:
    """The sum of each value over the processes."""
    if not dist.is_initialized():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    summed: list[float] = total.tolist()
    return summed
