"""Requests that come and go while others run: the second driver of `denoise_step`, beside the plain
loop of generate.py.

    engine = Engine(lm.model, lm.vocab, lm.device)
    first = engine.submit(row)
    while engine.busy:
        for event in engine.step():
            ...                       # event.row is the number that submit returned

Each request gets the tokens it gets alone, whatever decoders, settings, blocks and steps share its
passes. An engine belongs to one thread.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.cache_policy import NoCache
from creditdecoding.decoding.forward import Denoiser
from creditdecoding.decoding.request import Request, SpecialTokens, finish_event
from creditdecoding.decoding.scheduler import (
    MemoryBudget,
    MemoryNeed,
    PassShape,
    WaitQueue,
    group_into_passes,
    pass_positions,
)
from creditdecoding.decoding.step import denoise_step
from creditdecoding.errors import CreditError, ModelError, OptionError, QueueFullError
from creditdecoding.models import memory
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.trace import Event, FailEvent, StepEvent

SHARE = 0.8  # of the free memory, where the options name no figure
COLUMNS = 64  # a place in the cache is as long as a multiple of this, so that it seldom has to grow
DENSE = 24  # bytes an id and position of a rule that keeps them all: six float32 copies, which is what credit_full takes
FIXED = {
    "cpu": 64,
    "cuda": 256,
}  # what a pass costs beside its positions, in positions: measured on one core; reckoned for an H100


@dataclass(frozen=True)
class EngineStats:
    """Counts since the start, and what is under way now.

    `passes` are steps of rows, `forwards` runs of the network; `positions` went through it for a
    row, `padding` for nothing. Bytes:
    `cache` held for keys and values, `admitted` what the rows under way may take by the estimate,
    `memory` what they all may (None: no limit).
    """

    waiting: int
    running: int
    finished: int
    failed: int
    aborted: int
    forwards: int
    passes: int
    tokens: int
    positions: int
    padding: int
    cache_bytes: int
    admitted_bytes: int
    memory_limit: int | None

    @property
    def padding_share(self) -> float:
        """Share of all computed positions that no row needed."""
        return self.padding / (self.positions + self.padding) if self.padding else 0.0


class Engine:
    """Continuous batching: rows join and leave between steps. For one thread: whoever has several
    posts to the one that steps.
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
        """`share`: requests that show the network the same are computed once (sharing.py), and
        their events say who was not.
        """
        config, serve = config or EngineConfig(), serve or ServeConfig()
        self.model, self.vocab, self.device, self.serve, self.dedup = (
            model,
            vocab,
            device,
            serve,
            dedup,
        )
        self._foot = memory.footprint(model, vocab.size)
        there = free_memory(device) if serve.memory is None else None
        most = (
            int(serve.memory * 2**30)
            if serve.memory is not None
            else None
            if there is None
            else int(SHARE * there)
        )
        self._full = self._budget = MemoryBudget(
            config.batch_size, most, self._foot.cached
        )  # less than full after memory ran out, until idle
        self._waiting: WaitQueue[Request] = WaitQueue(serve.max_bypass)
        self._rows: dict[int, Request] = {}
        self._needs: dict[int, MemoryNeed] = {}
        self._round: list[list[int]] = []
        self._ceiling: int | None = None  # positions of a pass, once one was too large
        self._store: KVCache | None = None
        self._out: list[Event | FailEvent] = []
        self._inboxes: dict[int, deque[Event | FailEvent]] = {}
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._next, self._zero = 0, time.perf_counter()

    # What callers use
    # --------------------------------------------------------------------------------------------------------

    def submit(self, row: Request) -> int:
        """Queue a row; the number its events will carry. Raises `QueueFullError`, or `OptionError`
        if no memory budget lets it run alone.
        """
        need = self._need(row)
        if not self._budget.fits([need]):
            raise OptionError(
                "this request can never fit into memory", given=self._figures(need), hint=SMALLER
            )
        self._waiting.add(replace(row, index=self._next), need)
        if len(self._waiting) > self.serve.max_waiting:
            self._admit()
        if len(self._waiting) > self.serve.max_waiting:
            self._waiting.remove(lambda other: other.index == self._next)
            hint = "Try again later."
            raise QueueFullError(
                "too many requests wait",
                given=len(self._waiting) + 1,
                allowed=self.serve.max_waiting,
                hint=hint,
            )
        self._next += 1
        return self._next - 1

    def memory_bytes(self, row: Request) -> int:
        """What a row takes while it runs alone, by the estimate that lets it in."""
        return self._budget.taken([self._need(row)])

    def could_ever_hold(self, rows: Sequence[Request]) -> bool:
        """Whether all of these rows could run and wait together, were there no others."""
        line: WaitQueue[Request] = WaitQueue(self.serve.max_bypass)
        for row in rows:
            line.add(row, self._need(row))
        line.admit([], self._full)
        return len(line) <= self.serve.max_waiting

    def step(self) -> list[Event | FailEvent]:
        """Admit what fits and run one pass; everything that happened since the last call, streamed
        requests left out. Idle: nothing.
        """
        self._work()
        out, self._out = self._out, []
        return out

    def abort(self, request: int) -> bool:
        """End a request at once and without a further event; whether it was still under way."""
        self._inboxes.pop(request, None)
        self._out = [event for event in self._out if event.row != request]
        there = self._waiting.remove(lambda row: row.index == request) or request in self._rows
        if there:
            self._leave(request, "aborted")
        return there

    def stream(self, row: Request) -> Iterator[Event | FailEvent]:
        """Submit a row when iteration begins, run passes (for all) until it ends, yield its events;
        abort it if the consumer stops.
        """
        request = self.submit(row)
        inbox = self._inboxes[request] = deque()
        try:
            while request in self._inboxes:
                if not inbox:
                    self._work()
                    continue
                event = inbox.popleft()
                yield event
                if not isinstance(event, StepEvent):
                    return
        finally:
            self.abort(request)

    def max_concurrent(self, row: Request) -> int | None:
        """How many rows like this one the memory budget holds at the same time, whatever
        `batch_size` says; None: no limit is known.
        """
        each = self._full.taken([self._need(row)])
        return None if self._full.most is None or not each else self._full.most // each

    @property
    def busy(self) -> bool:
        """Whether anything waits, runs or was not handed out yet."""
        return bool(self._waiting or self._rows or self._out)

    @property
    def stats(self) -> EngineStats:
        """Counts and figures of this moment."""
        held = 0 if self._store is None else self._store.nbytes
        admitted = self._budget.taken([*self._needs.values()])
        now = {
            "waiting": len(self._waiting),
            "running": len(self._rows),
            "cache_bytes": held,
            "admitted_bytes": admitted,
        }
        return EngineStats(**now, **self._counts, memory_limit=self._budget.most)

    # A step
    # ------------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """One pass: the next of this round, in which every row that runs has one."""
        if not self._rows:
            self._budget, self._ceiling = self._full, None
        self._admit()
        self._seat()
        while self._rows:
            if not self._round:
                if self._ceiling is not None:
                    self._ceiling += (
                        1 + self._ceiling // 64
                    )  # what else took the memory may be gone
                ids = [*self._rows]
                works = [_work_of(self._rows[i]) for i in ids]
                self._round = [
                    [ids[i] for i in group]
                    for group in group_into_passes(
                        works, FIXED.get(self.device.type, FIXED["cuda"]), self._ceiling
                    )
                ]
            group = [i for i in self._round.pop(0) if i in self._rows]
            if group:
                return self._run(sorted(group, key=lambda i: self._rows[i].cache_slot))

    def _run(self, group: list[int]) -> None:
        """A pass over some rows; whoever makes it fail ends alone."""
        rows = [self._rows[i] for i in group]
        failure: Exception | None = None
        try:
            number = self._counts["forwards"]
            after, events = denoise_step(
                self.model,
                rows,
                self.vocab,
                self.device,
                number,
                self._seconds,
                self._store,
                self.dedup,
            )
        except (
            Exception
        ) as error:  # whatever a model or a rule raises: a request ends, the others go on
            failure = error.with_traceback(None)  # whose frames would hold the pass's tensors
        if failure is not None:
            return self._isolate(group, failure)
        works = [_work_of(row) for row, event in zip(rows, events) if event.sequences]
        positions = sum(work.positions for work in works)
        self._counts.update(
            forwards=1,
            passes=len(rows),
            positions=positions,
            padding=pass_positions(works) - positions,
        )
        for event, row in zip(events, after):
            self._rows[row.index] = row
            self._emit(event)
            try:
                end = finish_event(row, self.vocab, self._seconds())
            except Exception as error:  # ids that the tokenizer cannot read
                self._fail(row, error)
                continue
            if end is not None:
                self._counts["tokens"] += int(
                    (~row.read_only[row.answer_start : row.answer_start + len(end.tokens)]).sum()
                )
                self._leave(row.index, "finished")
                self._emit(end)

    def _isolate(self, group: list[int], error: Exception) -> None:
        """End the rows to blame for an error and run the others again; who is to blame is found by
        halving.
        """
        if _out_of_memory(error) and len(group) > 1:
            self._ceiling = max(1, pass_positions([_work_of(self._rows[i]) for i in group]) // 2)
        blamed = [group[i] for i in error.rows] if isinstance(error, ModelError) else []
        if not blamed and len(group) > 1:
            self._run(group[: len(group) // 2])
            return self._run(group[len(group) // 2 :])
        for request in blamed or group:
            self._fail(self._rows[request], error)
        left = [i for i in group if i in self._rows]
        if left:
            self._run(left)

    def _emit(self, event: Event | FailEvent) -> None:
        self._inboxes.get(event.row, self._out).append(event)

    def _fail(self, row: Request, error: Exception) -> None:
        """End a row with an error; what it stored goes too."""
        if self._store is not None and 0 <= row.cache_slot < self._store.slots:
            self._store.clear_slot(row.cache_slot)
            self._store.clear_slot(row.unconditional_slot)
        reason = (
            "memory"
            if _out_of_memory(error)
            else "model"
            if isinstance(error, ModelError)
            else "error"
        )
        self._leave(row.index, "failed")
        self._emit(FailEvent(row.index, _text(error), self._seconds(), row.joined_at, reason))

    def _leave(self, request: int, how: str) -> None:
        self._rows.pop(request, None)
        self._needs.pop(request, None)
        self._counts[how] += 1

    def _seconds(self) -> float:
        return time.perf_counter() - self._zero

    # Memory
    # ------------------------------------------------------------------------------------------------------------------

    def _need(self, row: Request) -> MemoryNeed:
        """What the row takes while it runs."""
        foot, sequences = self._foot, 1 + row.guided
        width = row.max_window
        dense = DENSE * width * self.vocab.size if capabilities_of(row.decoder).dense_state else 0
        beside = width * bool(row.leave_one_out_positions)
        working = (
            sequences
            * ((len(row.canvas) + beside) * foot.computed + (width + beside) * foot.logits)
            + dense
        )
        return MemoryNeed(
            sequences,
            -(-len(row.canvas) // COLUMNS) * COLUMNS,
            working,
            not isinstance(row.cache_policy, NoCache),
        )

    def _figures(self, need: MemoryNeed) -> str:
        """The parts of what a row needs, for an error."""
        cache = self._budget.taken([need]) - need.working
        most = "no limit" if self._budget.most is None else memory.format_bytes(self._budget.most)
        return f"{memory.format_bytes(cache)} of cached keys and values and {memory.format_bytes(need.working)} to compute with, of {most}"

    def _admit(self) -> None:
        """Let in what fits."""
        for one in self._waiting.admit(self._needs.values(), self._budget):
            self._rows[one.item.index] = replace(
                one.item, joined_at=self._seconds(), cache_slot=-1, unconditional_slot=-1
            )
            self._needs[one.item.index] = one.need

    def _seat(self) -> None:
        """Give every row its places in the cache; where memory runs out on the way, put rows back
        or end them.
        """
        while True:
            try:
                return self._arrange()
            except Exception as error:
                if not _out_of_memory(error) or not self._rows:
                    raise
                self._shed(error)

    def _shed(self, error: Exception) -> None:
        """The rows under way do not fit, whatever was estimated: the last, which never ran, goes
        back to the queue, or ends if it is alone.
        """
        most = self._budget.taken([*self._needs.values()]) - 1
        request, row = self._rows.popitem()
        need, row = self._needs.pop(request), replace(row, cache_slot=-1, unconditional_slot=-1)
        if not self._rows:
            return self._fail(row, error)
        self._budget = replace(self._budget, most=most)
        self._waiting.add(row, need, first=True)

    def _arrange(self) -> None:
        """Places lowest first and without holes, in a cache that is large enough and, if memory is
        short, no larger.
        """
        needs = [*self._needs.values()]
        slots, columns = self._budget.shape(needs)
        if self._store is None and slots:
            self._store = self.model.new_cache()  # type: ignore[attr-defined]
        if self._store is None:
            return
        if slots:
            self._number(slots)
        if self._budget.fits(needs, (self._store.slots, self._store.columns)):
            self._store.reserve(slots, columns)
        else:
            self._store.resize(slots, columns)

    def _number(self, slots: int) -> None:
        """Rows whose places lie behind the first `slots`, or nowhere, move into the holes before."""
        taken = {
            slot
            for row in self._rows.values()
            for slot in (row.cache_slot, row.unconditional_slot)
            if slot < slots
        }
        free = iter(sorted({*range(slots)} - taken))
        for i, row in self._rows.items():
            slot = row.cache_slot if 0 <= row.cache_slot < slots else next(free)
            twin = (
                slot
                if not row.guided
                else row.unconditional_slot
                if 0 <= row.unconditional_slot < slots
                else next(free)
            )
            if self._store is not None and self._needs[i].keeps and row.cache_slot >= 0:
                for old, new in {(row.cache_slot, slot), (row.unconditional_slot, twin)}:
                    if old != new:
                        self._store.copy_slots(old, new)
            self._rows[i] = replace(row, cache_slot=slot, unconditional_slot=twin)


COUNTED = ("finished", "failed", "aborted", "forwards", "passes", "tokens", "positions", "padding")
SMALLER = "Shorten the prompt, lower gen_length or block_length, or give the process more memory."


def _work_of(row: Request) -> PassShape:
    first, last = row.computed_span
    return PassShape(last - first, 1 + row.guided, len(row.leave_one_out_positions))


def _out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a device or on the host."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "can't allocate", "ALLOC_FAILED")
    )


def _text(error: Exception) -> str:
    """An error as one line for the caller."""
    if isinstance(error, CreditError):
        return str(error)
    if _out_of_memory(error):
        return str(CreditError("memory ran out in this request's pass", hint=SMALLER))
    return str(
        CreditError(
            f"the pass failed: {type(error).__name__}: {' '.join(str(error).split())}",
            hint="Report this with the request.",
        )
    )
