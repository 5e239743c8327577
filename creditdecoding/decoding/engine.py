"""Continuous batching: requests that come and go while others run.

    engine = Engine(lm.model, lm.vocab, lm.device)
    first = engine.submit(request)
    while engine.busy:
        for event in engine.step():
            ...                       # event.row is the number that submit returned

Each request gets the tokens that it gets alone, whatever decoders, settings, blocks and steps share
its passes. An engine belongs to one thread.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.advance import after_prefill, finish_event
from creditdecoding.decoding.cut_pass import CutPass, can_cut_pass
from creditdecoding.decoding.engine_errors import TAKE_LESS, error_line, is_out_of_memory
from creditdecoding.decoding.engine_stats import COUNTERS, EngineStats
from creditdecoding.decoding.forward import Denoiser, can_pack, is_packed
from creditdecoding.decoding.memory_need import memory_need
from creditdecoding.decoding.pass_plan import LongRowTurns, PassLimits, plan_round
from creditdecoding.decoding.prefix_cache import (
    PrefixCache,
    first_of_each_page,
    prefix_cache_bytes,
)
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.decoding.scheduler import (
    MemoryBudget,
    MemoryNeed,
    WaitQueue,
    pass_positions,
)
from creditdecoding.decoding.step import denoise_step
from creditdecoding.errors import ModelError, OptionError, QueueFullError
from creditdecoding.models import memory
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.trace import Event, FailEvent, StepEvent

MEMORY_FRACTION = 0.8
"""Share of the free memory that requests may take if the options set no limit."""
PASS_OVERHEAD = {"cpu": 64, "cuda": 256}
"""Cost of a pass besides its positions, in positions: measured on one core, estimated on H100."""


class Engine:
    """Runs requests that join and leave between steps. For one thread: others hand their requests
    to the thread that steps.
    """

    def __init__(
        self,
        model: Denoiser,
        vocab: SpecialTokens,
        device: torch.device,
        config: EngineConfig | None = None,
        serve: ServeConfig | None = None,
        free_memory: memory.FreeBytes = memory.free_bytes,
        dedup: bool = False,
    ) -> None:
        """`dedup`: requests with identical visible tokens share a row of a pass."""
        self.model = model
        self.vocab = vocab
        self.device = device
        self.serve = serve or ServeConfig()
        self.dedup = dedup
        self._footprint = memory.footprint(model, vocab.size)
        config = config or EngineConfig()
        limit = self._memory_limit(free_memory)
        self._limits = PassLimits.of(config.max_num_batched_tokens)
        self._full_budget = MemoryBudget(config.batch_size, limit, self._footprint.cached)
        self._budget = self._full_budget  # smaller after memory ran out, until the engine is idle
        self._waiting: WaitQueue[Request] = WaitQueue(self.serve.max_bypass)
        self._running: dict[int, Request] = {}
        self._needs: dict[int, MemoryNeed] = {}
        self._round: list[list[int]] = []  # the passes left of this round
        self._long_rows = LongRowTurns(partial(can_cut_pass, model))
        self._cut_pass = CutPass(model, vocab, device)  # of a long row, while others take steps
        self._max_positions: int | None = None  # of a pass, once one did not fit into memory
        self._cache: KVCache | None = None
        self._prefixes = self._new_prefix_cache(config, free_memory)
        self._events: list[Event | FailEvent] = []
        self._streams: dict[int, deque[Event | FailEvent]] = {}
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._next_number = 0
        self._began = time.perf_counter()

    def _memory_limit(self, free_memory: memory.FreeBytes) -> int | None:
        if self.serve.memory is not None:
            return int(self.serve.memory * 2**30)
        free = free_memory(self.device)
        return None if free is None else int(MEMORY_FRACTION * free)

    def _new_prefix_cache(
        self, config: EngineConfig, free_memory: memory.FreeBytes
    ) -> PrefixCache | None:
        """The store of shared prefixes; None if the model is not block-causal or it is off."""
        geometry = getattr(self.model, "geometry", None)
        if geometry is None or geometry.causal_block is None:
            return None
        max_bytes = prefix_cache_bytes(config, free_memory(self.device))
        return PrefixCache(max_bytes) if max_bytes else None

    # What callers use
    # ----------------

    def submit(self, request: Request) -> int:
        """Queue a request and return the number that its events will carry.

        Raises `QueueFullError`, or `OptionError` if no memory budget lets it run alone.
        """
        need = self._need(request)
        if not self._budget.fits([need]):
            raise OptionError(
                "this request can never fit into memory",
                given=self._need_text(need),
                hint=TAKE_LESS,
            )
        number = self._next_number
        limit = self.serve.max_waiting
        self._waiting.add(replace(request, index=number), need)
        if len(self._waiting) > limit:
            self._admit()
        if len(self._waiting) > limit:
            self._waiting.remove(lambda waiting: waiting.index == number)
            raise QueueFullError(
                "too many requests wait",
                given=len(self._waiting) + 1,
                allowed=limit,
                hint="Try again later.",
            )
        self._next_number += 1
        return number

    def memory_bytes(self, request: Request) -> int:
        """Bytes that a request takes while it runs alone, by the estimate used for admission."""
        return self._budget.bytes_needed([self._need(request)])

    def could_ever_hold(self, requests: Sequence[Request]) -> bool:
        """Whether an idle engine could run or queue all of these requests together."""
        queue: WaitQueue[Request] = WaitQueue(self.serve.max_bypass)
        for request in requests:
            queue.add(request, self._need(request))
        queue.admit([], self._full_budget)
        return len(queue) <= self.serve.max_waiting

    def max_concurrent(self, request: Request) -> int | None:
        """How many requests like this one fit into memory together, whatever `batch_size` is; None
        if there is no limit.
        """
        needed = self._full_budget.bytes_needed([self._need(request)])
        limit = self._full_budget.max_bytes
        return None if limit is None or not needed else limit // needed

    def step(self) -> list[Event | FailEvent]:
        """Admit what fits and run one pass, or a part of a long row's, if there is anything to run.

        Returns all events since the last call, but those of streamed requests.
        """
        self._run_next_pass()
        events = self._events
        self._events = []
        return events

    def abort(self, number: int) -> bool:
        """End a request at once, without a further event; whether it was still in progress."""
        self._streams.pop(number, None)
        self._events = [event for event in self._events if event.row != number]
        was_waiting = self._waiting.remove(lambda request: request.index == number)
        if not was_waiting and number not in self._running:
            return False
        self._remove(number, "aborted")
        return True

    def stream(self, request: Request) -> Iterator[Event | FailEvent]:
        """Submit a request when iteration begins, run passes (for all) until it ends, and yield its
        events; abort it if the consumer stops.
        """
        number = self.submit(request)
        events = self._streams[number] = deque()
        try:
            while number in self._streams:
                if not events:
                    self._run_next_pass()
                    continue
                event = events.popleft()
                yield event
                if not isinstance(event, StepEvent):
                    return
        finally:
            self.abort(number)

    @property
    def busy(self) -> bool:
        """Whether anything waits, runs or was not handed out yet."""
        return bool(self._waiting or self._running or self._events)

    @property
    def stats(self) -> EngineStats:
        """Counts and figures of this moment."""
        return EngineStats(
            waiting=len(self._waiting),
            running=len(self._running),
            cache_bytes=0 if self._cache is None else self._cache.nbytes,
            admitted_bytes=self._budget.bytes_needed([*self._needs.values()]),
            memory_limit=self._budget.max_bytes,
            **self._counts,
        )

    # A pass
    # ------

    def _run_next_pass(self) -> None:
        """Run the next pass of the round; in a round every running request has one pass."""
        if not self._running:
            self._budget = self._full_budget
            self._max_positions = None
            if self._prefixes is not None:
                self._prefixes.check_weights(self.model)
        self._admit()
        self._allocate_slots()
        while self._running:
            if not self._round:
                self._plan_round()
            group = [number for number in self._round.pop(0) if number in self._running]
            if group:
                self._run(sorted(group, key=lambda number: self._running[number].cache_slot))
                return

    def _plan_round(self) -> None:
        if self._max_positions is not None:  # other users of the memory may have freed some
            self._max_positions += 1 + self._max_positions // 64
        limits = self._limits.at_most(self._max_positions, self._prompt_positions())
        requests = self._shared_prefixes([*self._running.values()])
        requests, long_row = self._long_rows.due(requests, limits, self._cut_pass.number)
        overhead = PASS_OVERHEAD.get(self.device.type, PASS_OVERHEAD["cuda"])
        requests, passes = plan_round(requests, limits, overhead, can_pack(self.model))
        for request in requests:
            self._running[request.index] = request
        self._round = [[requests[i].index for i in group] for group in passes]
        if long_row is not None:
            self._round.append([long_row.index])
            self._cut_pass.begin(long_row.index, limits.chunk)

    def _shared_prefixes(self, requests: list[Request]) -> list[Request]:
        """The requests after they took over what others had stored; one whose next page is about to
        be computed for another waits.
        """
        if self._prefixes is None or self._cache is None:
            return requests
        for request in requests:
            self._running[request.index] = self._prefixes.load(request, self._cache)
        loaded = [self._running[request.index] for request in requests]
        self._counts["reused"] += sum(
            after.stored_until - before.stored_until for before, after in zip(requests, loaded)
        )
        return loaded if self.dedup else first_of_each_page(loaded, self._prefixes)

    def _prompt_positions(self) -> int | None:
        """Positions of a prompt that memory allows in a pass of its own; None without a limit.

        A chunk is always part of what a request was admitted with (`_need`).
        """
        max_bytes = self._budget.max_bytes
        if max_bytes is None or not self._footprint.computed:
            return self._max_positions
        free_bytes = max_bytes - self._budget.bytes_needed([*self._needs.values()])
        positions = self._limits.chunk + max(0, free_bytes) // self._footprint.computed
        return positions if self._max_positions is None else min(positions, self._max_positions)

    def _run(self, group: list[int]) -> None:
        """Run a pass over some requests; those that make it fail end, the others go on."""
        requests, prefill = self._members(group)
        failure: Exception | None = None
        try:
            network = self._cut_pass.network(requests, self._cache)
            if network is None:  # a long row's pass, which has more parts
                return
            after, events = denoise_step(
                network,
                requests,
                self.vocab,
                self.device,
                forward=self._counts["forwards"],
                clock=self._seconds,
                cache=self._cache,
                dedup=self.dedup,
                prefill=prefill,
            )
        except Exception as error:  # whatever a model or a decoder raises
            failure = error.with_traceback(None)  # its frames would keep the pass's tensors
        if failure is not None:  # handled out here, where Python has released the tensors
            self._isolate(group, failure)
            return
        ran = [request for request, event in zip(requests, events) if event.sequences]
        self._count([*ran, *prefill], idle=len(self._running) - len(group))
        self._counts.update(passes=len(group), prefill_passes=len(prefill))
        self._replace([*requests, *prefill], [*after, *map(after_prefill, prefill)])
        for event, request in zip(events, after):
            self._emit(event)
            self._finish(request)

    def _replace(self, before: list[Request], after: list[Request]) -> None:
        """Set the requests of a pass to what they are after it, and keep what it stored.

        Before an answer ends, so that the next turn of its chat finds it.
        """
        for old, new in zip(before, after):
            self._running[new.index] = new
            if self._prefixes is not None and self._cache is not None:
                self._prefixes.save(old, new, self._cache)

    def _members(self, group: list[int]) -> tuple[list[Request], list[Request]]:
        """The requests of a group that take a step, and those that store a part of a prompt."""
        requests = [self._running[number] for number in group]
        steps = [request for request in requests if request.prefill_end is None]
        return steps, [request for request in requests if request.prefill_end is not None]

    def _count(self, rows: list[Request], idle: int) -> None:
        """Count a run of the model over these requests."""
        shapes = [request.pass_shape for request in rows]
        positions = sum(shape.positions for shape in shapes)
        padding = 0 if is_packed(self.model, rows) else pass_positions(shapes) - positions
        self._counts.update(forwards=1, idle=idle, positions=positions, padding=padding)

    def _finish(self, request: Request) -> None:
        """End the request if it is finished."""
        try:
            event = finish_event(request, self.vocab, self._seconds())
        except Exception as error:  # ids that the tokenizer cannot decode
            self._fail(request, error)
            return
        if event is not None:
            answer = slice(request.answer_start, request.answer_start + len(event.tokens))
            self._counts["tokens"] += int((~request.read_only[answer]).sum())
            self._remove(request.index, "finished")
            self._emit(event)

    def _isolate(self, group: list[int], error: Exception) -> None:
        """End the requests that caused an error, found by halving the group, and run the others
        again.
        """
        if is_out_of_memory(error) and self._shrink_passes(group):
            return
        blamed = [group[row] for row in error.rows] if isinstance(error, ModelError) else []
        if not blamed and len(group) > 1:
            middle = len(group) // 2
            self._run(group[:middle])
            self._run(group[middle:])
            return
        for number in blamed or group:
            self._fail(self._running[number], error)
        left = [number for number in group if number in self._running]
        if left:
            self._run(left)

    def _shrink_passes(self, group: list[int]) -> bool:
        """Halve the passes after memory ran out in one of `group`. Whether nothing else need be
        done: a prompt alone in it is cut next time.
        """
        requests = [self._running[number] for number in group]
        positions = pass_positions([request.pass_shape for request in requests])
        block = requests[0].geometry.causal_block or 0
        can_cut = len(group) == 1 and requests[0].prefill_left > block and positions > 2 * block
        if len(group) > 1 or can_cut:
            self._max_positions = max(1, positions // 2)
        if can_cut:
            self._running[group[0]] = requests[0].after_step(prefill_end=None)
        return can_cut

    def _emit(self, event: Event | FailEvent) -> None:
        self._streams.get(event.row, self._events).append(event)

    def _fail(self, request: Request, error: Exception) -> None:
        """End a request with an error and clear what it cached."""
        if self._cache is not None and 0 <= request.cache_slot < self._cache.slots:
            self._cache.clear_slot(request.cache_slot)
            self._cache.clear_slot(request.unconditional_slot)
        reason = "model" if isinstance(error, ModelError) else "error"
        if is_out_of_memory(error):
            reason = "memory"
        self._remove(request.index, "failed")
        message = error_line(error)
        self._emit(FailEvent(request.index, message, self._seconds(), request.joined_at, reason))

    def _remove(self, number: int, outcome: str) -> None:
        self._running.pop(number, None)
        self._needs.pop(number, None)
        self._cut_pass.drop(number)
        self._counts[outcome] += 1

    def _seconds(self) -> float:
        return time.perf_counter() - self._began

    # Memory
    # ------

    def _need(self, request: Request) -> MemoryNeed:
        """What the request takes while it runs."""
        return memory_need(request, self._footprint, self._limits.chunk, self.vocab.size)

    def _need_text(self, need: MemoryNeed) -> str:
        """The parts of a need, for an error."""
        limit = self._budget.max_bytes
        cached = memory.format_bytes(self._budget.bytes_needed([need]) - need.working_bytes)
        working = memory.format_bytes(need.working_bytes)
        allowed = "no limit" if limit is None else memory.format_bytes(limit)
        return f"{cached} of cached keys and values and {working} to compute with, of {allowed}"

    def _admit(self) -> None:
        """Move what fits from the queue to the running requests, which have no slots yet."""
        for waiting in self._waiting.admit(self._needs.values(), self._budget):
            request = _without_slots(waiting.item)
            self._running[request.index] = replace(request, joined_at=self._seconds())
            self._needs[request.index] = waiting.need

    def _allocate_slots(self) -> None:
        """Give every running request its cache slots; on out-of-memory preempt or fail requests."""
        while True:
            try:
                self._fit_cache()
                return
            except Exception as error:
                if not is_out_of_memory(error) or not self._running:
                    raise
                self._preempt_last(error)

    def _preempt_last(self, error: Exception) -> None:
        """Put the newest request, which never ran, back into the queue; fail it if it is alone."""
        max_bytes = self._budget.bytes_needed([*self._needs.values()]) - 1
        number, request = self._running.popitem()
        self._cut_pass.drop(number)
        need = self._needs.pop(number)
        if not self._running:
            self._fail(_without_slots(request), error)
            return
        self._budget = replace(self._budget, max_bytes=max_bytes)
        self._waiting.add(_without_slots(request), need, first=True)

    def _fit_cache(self) -> None:
        """Compact the cache slots; grow the cache if needed, shrink it when memory is tight."""
        needs = [*self._needs.values()]
        slots, columns = self._budget.cache_shape(needs)
        if self._cache is None and slots:
            self._cache = self.model.new_cache()  # type: ignore[attr-defined]
        if self._cache is None:
            return
        if slots:
            self._compact(self._cache, slots)
        if self._budget.fits(needs, (self._cache.slots, self._cache.columns)):
            self._cache.reserve(slots, columns)
        else:
            self._cache.resize(slots, columns)

    def _compact(self, cache: KVCache, slots: int) -> None:
        """Move requests without a slot below `slots` to the free ones there."""
        used = {r.cache_slot for r in self._running.values()}
        used |= {r.unconditional_slot for r in self._running.values()}
        free = (slot for slot in range(slots) if slot not in used)

        def fitting(slot: int) -> int:
            return slot if 0 <= slot < slots else next(free)

        for number, request in self._running.items():
            slot = fitting(request.cache_slot)
            unconditional_slot = fitting(request.unconditional_slot) if request.guided else slot
            if request.uses_cache and request.cache_slot >= 0:
                moves = {
                    request.cache_slot: slot,
                    request.unconditional_slot: unconditional_slot,
                }
                for old, new in moves.items():
                    if old != new:
                        cache.copy_slots([old], [new])
            self._running[number] = replace(
                request, cache_slot=slot, unconditional_slot=unconditional_slot
            )


def _without_slots(request: Request) -> Request:
    slots = {"cache_slot": -1, "unconditional_slot": -1}
    return request.after_step(**slots, stored_until=0, prefill_end=None)
