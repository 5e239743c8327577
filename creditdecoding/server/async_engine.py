"""Answers under way: rows handed to the worker's engine, events turned into text that grows, ends,
failures, and leave-taking.

Lives in the event loop; the worker's thread only posts to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from creditdecoding.decoding.engine import Engine, EngineStats
from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.decoding.streaming import IncrementalDetokenizer
from creditdecoding.errors import CreditError, OptionError, QueueFullError
from creditdecoding.server.engine_thread import EngineThread
from creditdecoding.server.metrics import Metrics
from creditdecoding.trace import Event, FailEvent, FinishEvent, StepEvent

ENGINE_FAILED = "the engine failed in this request's pass"
SHUTTING_DOWN = "the server is shutting down"


class Answer:
    """One row under way as its client sees it: text so far, passes, log-probabilities, and how it
    ended.
    """

    def __init__(
        self, request: Request, words: SpecialTokens, updated: asyncio.Event, keep_steps: bool
    ) -> None:
        self.row, self.bell = request, updated
        self.key: tuple[int, int] | None = None
        self.detokenizer = IncrementalDetokenizer(request, words)
        self.steps: list[StepEvent] = []
        self.logprobs: dict[int, float] = {}
        self.nfe = 0
        self.finish: FinishEvent | None = None
        self.failure: tuple[str, str] | None = None
        self.admitted_at, self.first_text_at, self.ended_at, self.queue_seconds = (
            time.monotonic(),
            0.0,
            0.0,
            0.0,
        )
        self._keep_steps = keep_steps

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.finish is not None or self.failure is not None

    def on_event(self, event: StepEvent | FinishEvent) -> None:
        """Take up what happened to the row."""
        if isinstance(event, StepEvent):
            self.queue_seconds = (
                self.queue_seconds if self.nfe else time.monotonic() - self.admitted_at
            )
            self.nfe += 1
            if event.logprobs is not None:
                self.logprobs |= {
                    p: value
                    for p, value, done in zip(event.positions, event.logprobs, event.committed)
                    if done
                }
            if self._keep_steps:
                self.steps.append(event)
        else:
            self.finish = event
        if self.detokenizer.add(event) and not self.first_text_at:
            self.first_text_at = time.monotonic()
        self._ring()

    def fail(self, reason: str, text: str) -> None:
        """End without an answer; `reason` as in `FailEvent`, or "closing"."""
        self.failure = (reason, text)
        self._ring()

    def _ring(self) -> None:
        if self.done:
            self.ended_at = time.monotonic()
        self.bell.set()


def _never(count: int) -> OptionError:
    """The error for a request that no later moment makes room for."""
    return OptionError(
        "this request asks for more answers than memory and queue ever hold at once",
        given=count,
        hint="Send several requests, or start the server with a larger --max-waiting.",
        param="n",
    )


class AsyncEngine:
    """Every answer under way, and the worker that makes them grow."""

    def __init__(self, words: SpecialTokens, make: Callable[[], Engine], metrics: Metrics) -> None:
        self._words, self._metrics = words, metrics
        self._answers: dict[tuple[int, int], Answer] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker = EngineThread(
            make, lambda *of: self._post(self._hear, *of), lambda *of: self._post(self._lost, *of)
        )
        self.closing = False
        self._closed: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start the worker; events come to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._worker.start()

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self._worker.alive and not self.closing

    async def submit(self, rows: Sequence[Request], keep_steps: bool = False) -> list[Answer]:
        """Hand rows to the engine, all or none; their answers share one bell. Raises what
        `Engine.submit` raises.
        """
        bell = asyncio.Event()
        answers = [Answer(row, self._words, bell, keep_steps) for row in rows]

        def submit(engine: Engine) -> None:
            try:
                for answer in answers:
                    answer.key = (self._worker.engine_generation, engine.submit(answer.row))
                    self._answers[answer.key] = answer  # before the first step: no event is missed
            except Exception as error:
                for key in filter(None, (answer.key for answer in answers)):
                    del self._answers[key]
                    engine.abort(key[1])
                if isinstance(error, QueueFullError) and not engine.could_ever_hold(rows):
                    raise _never(len(rows)) from error
                raise

        future = self._worker.call(submit)
        try:
            await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda _: self.abort(answers))
            raise
        for answer in answers:
            self._metrics.on_admitted(answer.row)
        return answers

    def abort(self, answers: Sequence[Answer]) -> None:
        """Nobody waits for these any more: what runs of them is aborted before the next step."""
        left = [answer.key for answer in answers if not answer.done and answer.key is not None]
        if left and self._worker.alive:
            self._worker.call(
                lambda engine: [
                    engine.abort(number)
                    for life, number in left
                    if life == self._worker.engine_generation
                ]
            )
        for key in left:
            if self._answers.pop(key, None) is not None:
                self._metrics.on_ended("abort")

    async def close(self, grace: float) -> None:
        """Take no more requests, let those under way finish for `grace` seconds, fail the rest, end
        the worker; once, whoever calls.
        """
        if self._closed is None:
            self.closing = True
            self._closed = asyncio.ensure_future(self._close(grace))
        await self._closed

    async def _close(self, grace: float) -> None:
        ends = time.monotonic() + grace
        while self._answers and time.monotonic() < ends:
            await asyncio.sleep(0.02)
        left = list(self._answers.values())
        self.abort(left)
        for answer in left:
            answer.fail("closing", SHUTTING_DOWN)
        await asyncio.to_thread(self._worker.stop)
        for answer in self._answers.values():  # whoever slipped in meanwhile
            answer.fail("closing", SHUTTING_DOWN)

    async def stats(self) -> EngineStats | None:
        """The engine's figures of this moment, None when it has ended."""
        return (
            await asyncio.wrap_future(self._worker.call(lambda engine: engine.stats))
            if self._worker.alive
            else None
        )

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function in the loop, from the worker's thread."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _hear(self, life: int, events: Sequence[Event | FailEvent]) -> None:
        for event in events:
            answer = self._answers.get((life, event.row))
            if answer is None:
                continue
            if isinstance(event, FailEvent):
                answer.fail(event.reason, event.error)
            else:
                answer.on_event(event)
            self._metrics.heard(event, answer)
            if answer.done:
                del self._answers[life, event.row]

    def _lost(self, life: int, error: Exception) -> None:
        """An engine is gone with all its rows."""
        text = (
            str(error)
            if isinstance(error, CreditError)
            else f"{ENGINE_FAILED} ({type(error).__name__})"
        )
        for key in [key for key in list(self._answers) if key[0] == life]:
            self._answers.pop(key).fail("error", text)
            self._metrics.on_ended("error")
