"""The plain loop: the specification of decoding, as a generator of trace events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from creditdecoding.decoding.cache_policy import NoCache
from creditdecoding.decoding.forward import Denoiser
from creditdecoding.decoding.request import Request, SpecialTokens, finish_event
from creditdecoding.decoding.step import denoise_step
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.trace import Event


def denoise(
    model: Denoiser,
    rows: Iterable[Request],
    vocab: SpecialTokens,
    device: torch.device,
    batch_size: int = 16,
) -> Iterator[Event]:
    """The plain loop: decode all `rows`, at most `batch_size` at a time, a finished row's place
    going to the next one.

    Yields a `StepEvent` a row a pass and a `FinishEvent` a row; times count from the start of the
    run.
    """
    zero = time.perf_counter()
    waiting, forward = iter(rows), 0
    active: list[Request] = []
    free = list(range(2 * batch_size))  # two places in the cache for a guided row
    store: KVCache | None = None
    while True:
        while len(active) < batch_size and (row := next(waiting, None)) is not None:
            slot = free.pop(0)
            active.append(
                replace(
                    row,
                    joined_at=time.perf_counter() - zero,
                    cache_slot=slot,
                    unconditional_slot=free.pop(0) if row.guided else slot,
                )
            )
        if not active:
            return
        if store is None and not all(isinstance(row.cache_policy, NoCache) for row in active):
            store = model.new_cache()  # type: ignore[attr-defined]
        if store is not None:
            store.reserve(
                max(row.unconditional_slot for row in active) + 1,
                max(len(row.canvas) for row in active),
            )
        active, events = denoise_step(
            model, active, vocab, device, forward, lambda: time.perf_counter() - zero, store
        )
        yield from events
        forward += 1
        ends = [finish_event(row, vocab, time.perf_counter() - zero) for row in active]
        yield from (end for end in ends if end is not None)
        free = sorted(
            {
                *free,
                *(
                    slot
                    for row, end in zip(active, ends)
                    if end is not None
                    for slot in (row.cache_slot, row.unconditional_slot)
                ),
            }
        )
        active = [row for row, end in zip(active, ends) if end is None]
