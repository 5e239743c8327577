"""The engine as the event loop sees it: requests go in, answers grow.

The engine runs in a thread (engine_thread); its events are posted to the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.engine_stats import EngineStats
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.server.admission import submit_all
from creditdecoding.server.answer import Answer
from creditdecoding.server.engine_thread import EngineThread
from creditdecoding.server.error_responses import ShuttingDownError, engine_failure_message
from creditdecoding.server.metrics import Metrics
from creditdecoding.trace import Event, FailEvent, FinishEvent, StepEvent

POLL = 0.02  # seconds


class AsyncEngine:
    """All unfinished answers, and the engine thread that makes them grow."""

    def __init__(
        self, vocab: SpecialTokens, make_engine: Callable[[], Engine], metrics: Metrics
    ) -> None:
        self._vocab = vocab
        self._metrics = metrics
        self._thread = EngineThread(make_engine, self._pass_on_events, self._pass_on_failure)
        self._running: dict[int, Answer] = {}  # by the engine's number; engine thread only
        self._unfinished: set[Answer] = set()  # event loop only
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start the thread; events come to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether requests are accepted."""
        return self._thread.alive and self._closing is None

    async def submit(self, requests: Sequence[Request], keep_steps: bool = False) -> list[Answer]:
        """Queue all requests or none; their answers share one `updated`.

        Raises `ShuttingDownError` and what `submit_all` raises.
        """
        if self._closing is not None:
            raise ShuttingDownError
        updated = asyncio.Event()
        answers = [Answer(request, self._vocab, updated, keep_steps) for request in requests]

        def submit(engine: Engine) -> None:
            self._running.update(zip(submit_all(engine, requests), answers))

        self._unfinished.update(answers)  # before the first event can come
        try:
            await asyncio.wrap_future(self._thread.call(submit))
        except asyncio.CancelledError:
            self.abort(answers)
            raise
        except Exception:
            self._unfinished.difference_update(answers)
            raise
        for request in requests:
            self._metrics.on_admitted(request.given_tokens)
        return answers

    def abort(self, answers: Sequence[Answer]) -> None:
        """End those that are unfinished before the next step."""
        aborted = self._unfinished.intersection(answers)
        self._unfinished -= aborted
        for _ in aborted:
            self._metrics.on_end("abort")

        def abort(engine: Engine) -> None:
            for number, answer in list(self._running.items()):
                if answer in aborted:
                    engine.abort(number)
                    del self._running[number]

        if aborted:
            self._thread.call(abort)

    async def close(self, grace: float) -> None:
        """Accept no more requests, let the unfinished run for `grace` seconds, fail the rest, stop
        the thread. Further calls wait for the first.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(grace))
        await self._closing

    async def _close(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        while self._unfinished and time.monotonic() < deadline:
            await asyncio.sleep(POLL)
        cut_off = list(self._unfinished)
        self.abort(cut_off)
        for answer in cut_off:
            answer.fail("closing", ShuttingDownError.WHAT)
        await asyncio.to_thread(self._thread.stop)

    async def stats(self) -> EngineStats | None:
        """The engine's counts at this moment, None after its end."""
        if not self._thread.alive:
            return None
        return await asyncio.wrap_future(self._thread.call(lambda engine: engine.stats))

    # In the engine thread

    def _pass_on_events(self, events: Sequence[Event | FailEvent]) -> None:
        answers = [self._running.get(event.row) for event in events]
        for event in events:
            if not isinstance(event, StepEvent):
                self._running.pop(event.row, None)
        self._post(self._on_events, answers, events)

    def _pass_on_failure(self, error: Exception) -> None:
        lost = list(self._running.values())
        self._running.clear()
        self._post(self._on_engine_failure, lost, error)

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # In the event loop

    def _on_events(
        self, answers: Sequence[Answer | None], events: Sequence[Event | FailEvent]
    ) -> None:
        for answer, event in zip(answers, events):
            if answer is None or answer not in self._unfinished:
                continue  # aborted
            answer.on_event(event)
            self._count(answer, event)
            if answer.done:
                self._unfinished.discard(answer)

    def _on_engine_failure(self, lost: Sequence[Answer], error: Exception) -> None:
        for answer in self._unfinished.intersection(lost):
            answer.fail("error", engine_failure_message(error))
            self._metrics.on_end("error")
        self._unfinished.difference_update(lost)

    def _count(self, answer: Answer, event: Event | FailEvent) -> None:
        if isinstance(event, StepEvent):
            self._metrics.on_step(event)
            return
        self._metrics.on_end(event.reason)
        if isinstance(event, FinishEvent):
            ended_at = answer.ended_at or time.monotonic()
            self._metrics.on_answer(
                tokens=answer.token_count,
                nfe=answer.nfe,
                queue_seconds=(answer.first_pass_at or ended_at) - answer.admitted_at,
                first_text_seconds=(answer.first_text_at or ended_at) - answer.admitted_at,
                total_seconds=ended_at - answer.admitted_at,
            )
