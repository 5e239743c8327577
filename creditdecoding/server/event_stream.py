"""Streamed answers as server-sent events: text as soon as it is final, and on request the canvas.

What is final is decided by the answer's detokenizer (`decoding.streaming`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from creditdecoding.errors import MissingExtraError
from creditdecoding.server.answer import Answer
from creditdecoding.server.error_responses import failure_body
from creditdecoding.server.responses import DraftCanvas, ResponseFormat

try:
    from fastapi.responses import StreamingResponse
except ImportError as error:
    raise MissingExtraError("fastapi", "server") from error

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class EventStream(StreamingResponse):
    """A response of server-sent events; `on_close` is called however it ends."""

    def __init__(self, events: AsyncIterator[str], on_close: Callable[[], None]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


async def answer_events(
    answers: Sequence[Answer], response_format: ResponseFormat, drafts: bool
) -> AsyncIterator[str]:
    """Events of answers that share one `updated`: text, the canvases if `drafts`, how each ended,
    the counts if the format has them. A failure is the last event.
    """
    streams = [
        _AnswerStream(i, answer, response_format, drafts) for i, answer in enumerate(answers)
    ]
    if response_format.is_chat:
        openings = [response_format.opening_choice(index) for index in range(len(answers))]
        # The opening carries no text, so it counts no answer, even if passes were already made.
        yield _event(response_format.chunk(openings, ()))
    while not all(stream.ended for stream in streams):
        answers[0].updated.clear()
        for stream in streams:
            if stream.answer.failure:
                yield _event(failure_body(stream.answer.failure)[1])
                return
            for choice in stream.new_choices():
                yield _event(response_format.chunk([choice], answers))
        if not all(stream.ended for stream in streams):
            await answers[0].updated.wait()
    if response_format.final_usage:
        yield _event(response_format.chunk([], answers))
    yield "data: [DONE]\n\n"


class _AnswerStream:
    """How much of an answer was sent."""

    def __init__(
        self, index: int, answer: Answer, response_format: ResponseFormat, drafts: bool
    ) -> None:
        self.answer = answer
        self.ended = False
        self._index = index
        self._format = response_format
        self._canvas = DraftCanvas(answer.request, response_format.tokenizer) if drafts else None
        self._sent_characters = 0
        self._sent_tokens = 0

    def new_choices(self) -> list[dict[str, Any]]:
        """What was not sent yet, at one moment: canvases, then the text that they made final."""
        steps = self.answer.steps
        self.answer.steps = []
        choices: list[dict[str, Any]] = []
        if self._canvas is not None:
            drafts = [self._canvas.after(step) for step in steps]
            choices += [self._format.draft_choice(self._index, draft) for draft in drafts]
        text = self.answer.detokenizer.text[self._sent_characters :]
        if not self.ended and (text or self.answer.done):
            self.ended = self.answer.done
            choices.append(
                self._format.chunk_choice(self._index, self.answer, text, self._sent_tokens)
            )
            self._sent_characters += len(text)
            if self._format.logprobs:
                self._sent_tokens = self.answer.detokenizer.ids_in_text
        return choices


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
