"""The plain loop over requests: the specification of decoding, as a generator of trace events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from creditdecoding.decoding.advance import finish_event
from creditdecoding.decoding.forward import Denoiser
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.decoding.step import denoise_step
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.trace import Event


def denoise(
    model: Denoiser,
    requests: Iterable[Request],
    vocab: SpecialTokens,
    device: torch.device,
    batch_size: int = 16,
) -> Iterator[Event]:
    """Decode all `requests`, at most `batch_size` at a time; the next one joins when one finishes.

    Yields a `StepEvent` for each request of each pass and a `FinishEvent` for each request; times
    count from the start of the run.
    """
    began = time.perf_counter()

    def seconds() -> float:
        return time.perf_counter() - began

    waiting = iter(requests)
    forward = 0
    active: list[Request] = []
    free_slots = list(range(2 * batch_size))  # a guided request takes two
    cache: KVCache | None = None
    while True:
        while len(active) < batch_size and (request := next(waiting, None)) is not None:
            active.append(_join(request, free_slots, seconds()))
        if not active:
            return
        cache = _fitting_cache(model, cache, active)
        active, events = denoise_step(model, active, vocab, device, forward, seconds, cache)
        yield from events
        forward += 1
        unfinished = []
        for request in active:
            event = finish_event(request, vocab, seconds())
            if event is None:
                unfinished.append(request)
            else:
                yield event
                free_slots += {request.cache_slot, request.unconditional_slot}
        active = unfinished
        free_slots.sort()


def _join(request: Request, free_slots: list[int], seconds: float) -> Request:
    """The request with the lowest free slots, which are taken out of `free_slots`."""
    slot = free_slots.pop(0)
    unconditional_slot = free_slots.pop(0) if request.guided else slot
    return replace(
        request, joined_at=seconds, cache_slot=slot, unconditional_slot=unconditional_slot
    )


def _fitting_cache(
    model: Denoiser, cache: KVCache | None, requests: list[Request]
) -> KVCache | None:
    """The cache, made when a request first uses one, and large enough for these requests."""
    if cache is None and any(request.uses_cache for request in requests):
        cache = model.new_cache()  # type: ignore[attr-defined]
    if cache is not None:
        slots = max(request.unconditional_slot for request in requests) + 1
        cache.reserve(slots, max(len(request.canvas) for request in requests))
    return cache
