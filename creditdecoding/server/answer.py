"""The answer to one request while it grows."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from creditdecoding.decoding.request import Request, SpecialTokens
from creditdecoding.decoding.streaming import IncrementalDetokenizer
from creditdecoding.trace import Event, FailEvent, FinishEvent, StepEvent


class Failure(NamedTuple):
    """Why a request ended without an answer: `FailEvent.reason` or "closing", and one line."""

    reason: str
    message: str


class Answer:
    """The state of one answer: final text, forward passes, log-probabilities, how it ended.

    `updated` is set after every change; the answers to one HTTP request share it. Steps are kept
    in `steps`, for the consumer to take out, if `keep_steps`.
    """

    def __init__(
        self,
        request: Request,
        vocab: SpecialTokens,
        updated: asyncio.Event,
        keep_steps: bool = False,
    ) -> None:
        self.request = request
        self.updated = updated
        self.detokenizer = IncrementalDetokenizer(request, vocab)
        self.steps: list[StepEvent] = []
        self.logprobs: dict[int, float] = {}
        self.alternatives: dict[int, tuple[tuple[int, float], ...]] = {}
        self.nfe = 0
        self.finish: FinishEvent | None = None
        self.failure: Failure | None = None
        self.admitted_at = time.monotonic()
        self.first_pass_at: float | None = None
        self.first_text_at: float | None = None
        self.ended_at: float | None = None
        self._keep_steps = keep_steps

    @property
    def token_count(self) -> int:
        """How many of the final tokens were written; the others were given."""
        start = self.request.answer_start
        is_given = self.request.read_only[start : start + len(self.detokenizer.ids)]
        return int((~is_given).sum())

    @property
    def done(self) -> bool:
        """Whether the answer has ended, with or without success."""
        return self.finish is not None or self.failure is not None

    def on_event(self, event: Event | FailEvent) -> None:
        """Record what the engine reports of the request."""
        if isinstance(event, FailEvent):
            self.fail(event.reason, event.error)
            return
        if isinstance(event, StepEvent):
            self._on_step(event)
        else:
            self.finish = event
        new_text = self.detokenizer.add(event)
        if new_text and self.first_text_at is None:
            self.first_text_at = time.monotonic()
        self._notify()

    def fail(self, reason: str, message: str) -> None:
        """End without an answer."""
        self.failure = Failure(reason, message)
        self._notify()

    def _on_step(self, event: StepEvent) -> None:
        if self.first_pass_at is None:
            self.first_pass_at = time.monotonic()
        self.nfe += 1
        if event.logprobs is not None:
            values = zip(event.positions, event.logprobs, event.committed)
            self.logprobs |= {position: value for position, value, kept in values if kept}
        if event.alternatives is not None:
            self.alternatives |= zip(event.commits(), event.alternatives)
        if self._keep_steps:
            self.steps.append(event)

    def _notify(self) -> None:
        if self.done:
            self.ended_at = time.monotonic()
        self.updated.set()
