"""Several processes that share each training step: every one has its own rows, gradients are
averaged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from creditdecoding import child_processes as children

_PATIENCE = timedelta(minutes=15)


def join_group(rank: int, world: int, meeting: Path) -> None:
    """Meet the other processes through a file; nothing listens on the network but the loopback."""
    if rank:
        children.end_with_parent()
    store = dist.FileStore(str(meeting), world)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=_PATIENCE)


@contextlib.contextmanager
def peer_processes(
    world: int, meeting: Path, work: Callable[..., None], *args: Any
) -> Iterator[None]:
    """Run `work(rank, world, meeting, *args)` in `world - 1` further processes while the body runs
    as rank 0.
    """
    meeting.unlink(missing_ok=True)
    started: list[SpawnProcess] = []
    try:
        for rank in range(1, world):
            started.append(children.start_process(work, (rank, world, meeting, *args)))
        if world > 1:
            join_group(0, world, meeting)
        yield
    finally:
        children.end_processes(started)
        if dist.is_initialized():
            dist.destroy_process_group()
        meeting.unlink(missing_ok=True)


def average_gradients(model: nn.Module) -> None:
    """Replace every gradient by its mean over the processes; nothing to do for one process."""
    if not dist.is_initialized():
        return
    found = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([grad.flatten() for grad in found])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, part in zip(found, flat.split([grad.numel() for grad in found])):
        grad.copy_(part.view_as(grad))
