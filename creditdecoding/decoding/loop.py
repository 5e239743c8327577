"""The plain loop over requests: the specification of decoding, as a generator of trace events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch

from creditdecoding.decoding.advance import after_prefill, finish_event
from creditdecoding.decoding.forward import Denoiser, can_pack
from creditdecoding.decoding.pass_plan import PassLimits, plan_round
from creditdecoding.decoding.prefix_cache import PrefixCache
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.decoding.step import denoise_step
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.trace import Event, FinishEvent, StepEvent


def denoise(
    model: Denoiser,
    requests: Iterable[Request],
    vocab: SpecialTokens,
    device: torch.device,
    batch_size: int = 16,
    max_positions: int | None = None,
    prefixes: PrefixCache | None = None,
) -> Iterator[Event]:
    """Decode all `requests`, at most `batch_size` at a time; the next one joins when one finishes.

    - `max_positions`: they share passes of at most so many positions, and long prompts are cut as
      in the engine; by default a step is one pass over all.
    - `prefixes`: keeps keys and values that later runs may begin with, as the turns of a chat do;
      by default nothing is kept.

    Yields a `StepEvent` for each request of each pass and a `FinishEvent` for each request; times
    count from the start of the run.
    """
    seconds = _clock()
    one_pass = partial(denoise_step, model, vocab=vocab, device=device, clock=seconds)
    waiting = iter(requests)
    forward = 0
    active: list[Request] = []
    free_slots = list(range(2 * batch_size))  # a guided request takes two
    cache = None
    while True:
        for request in islice(waiting, batch_size - len(active)):
            active.append(_join(request, free_slots, seconds()))
        if not active:
            return
        cache = _fitting_cache(model, cache, active)
        active = _with_prefixes(model, prefixes, active, cache)
        active, passes = _plan(model, active, max_positions)
        for members in passes:
            after, events = _run(one_pass, [active[i] for i in members], forward, cache)
            yield from events
            forward += 1
            active = _with_members(active, members, after, prefixes, cache)
        active, ends = _finish(active, vocab, seconds(), free_slots)
        yield from ends


def _clock() -> Callable[[], float]:
    """A clock that begins now, in seconds."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


def _plan(
    model: Denoiser, active: list[Request], max_positions: int | None
) -> tuple[list[Request], list[list[int]]]:
    """The requests and the indices of those that share a pass.

    All of them do, whatever it takes, unless there is a limit.
    """
    if max_positions is None:
        return active, [list(range(len(active)))]
    return plan_round(active, PassLimits.of(max_positions), 0, can_pack(model))


def _run(
    one_pass: Callable[..., tuple[list[Request], list[StepEvent]]],
    group: Sequence[Request],
    forward: int,
    cache: KVCache | None,
) -> tuple[list[Request], list[StepEvent]]:
    """A pass over requests, of which some only store a part of their prompt.

    The requests after it in the same order, and an event for each of the others.
    """
    steps = [request for request in group if request.prefill_end is None]
    prompts = [request for request in group if request.prefill_end is not None]
    after, events = one_pass(requests=steps, forward=forward, cache=cache, prefill=prompts)
    stepped = iter(after)
    return [next(stepped) if r.prefill_end is None else after_prefill(r) for r in group], events


def _with_members(
    requests: list[Request],
    members: Sequence[int],
    after: Sequence[Request],
    prefixes: PrefixCache | None,
    cache: KVCache | None,
) -> list[Request]:
    """The requests, those of a pass as they are after it; what it stored is kept."""
    changed = dict(zip(members, after))
    if prefixes is not None and cache is not None:
        for i, request in changed.items():
            prefixes.save(requests[i], request, cache)
    return [changed.get(i, request) for i, request in enumerate(requests)]


def _with_prefixes(
    model: Denoiser, prefixes: PrefixCache | None, requests: list[Request], cache: KVCache | None
) -> list[Request]:
    """The requests after they took over what is known of their prompts."""
    if prefixes is None or cache is None:
        return requests
    if not any(request.step or request.stored_until for request in requests):
        prefixes.check_weights(model)
    return [prefixes.load(request, cache) for request in requests]


def _finish(
    requests: list[Request], vocab: SpecialTokens, seconds: float, free_slots: list[int]
) -> tuple[list[Request], list[FinishEvent]]:
    """The requests that go on, and the ends of the others, whose slots are free again."""
    unfinished = []
    ends = []
    for request in requests:
        event = finish_event(request, vocab, seconds)
        if event is None:
            unfinished.append(request)
        else:
            ends.append(event)
            free_slots += {request.cache_slot, request.unconditional_slot}
    free_slots.sort()
    return unfinished, ends


def _join(request: Request, free_slots: list[int], seconds: float) -> Request:
    """The request with the lowest free slots, which are taken out of `free_slots`."""
    slot = free_slots.pop(0)
    unconditional_slot = free_slots.pop(0) if request.guided else slot
    return request.after_step(
        joined_at=seconds, cache_slot=slot, unconditional_slot=unconditional_slot
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
