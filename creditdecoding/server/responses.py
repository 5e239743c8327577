"""Answers in OpenAI's shapes, as plain data."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from creditdecoding.decoding.request import Request
from creditdecoding.server.answer import Answer
from creditdecoding.server.error_responses import StatusAndBody, failure_body
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import StepEvent
from creditdecoding.viewer.frames import Frame, frame_deltas, initial_frame, next_frame

REPLACEMENT = "\ufffd"  # stands for bytes that are no whole character


def usage(answers: Sequence[Answer], prompt_tokens: int) -> dict[str, Any]:
    """Counts of a request so far: the prompt's tokens, final tokens and passes of all answers."""
    tokens = sum(len(answer.detokenizer.ids) for answer in answers)
    nfe = sum(answer.nfe for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "nfe": nfe,
        "tpf": round(tokens / nfe, 4) if nfe else 0.0,
    }


@dataclass(frozen=True)
class ResponseFormat:
    """The shape of the response to one HTTP request, of /v1/chat/completions or of /v1/completions.

    Streams carry `usage` in a last event if `final_usage`, in every event if `continuous_usage`.
    """

    is_chat: bool
    model: str
    tokenizer: Tokenizer
    prompt_tokens: int
    logprobs: bool = False
    final_usage: bool = False
    continuous_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def response(self, answers: Sequence[Answer]) -> StatusAndBody:
        """The response to a request that is not streamed; an error if one of the answers failed."""
        choices = []
        for index, answer in enumerate(answers):
            if answer.failure is not None:
                return failure_body(answer.failure)
            text = answer.detokenizer.text
            message = {"message": {"role": "assistant", "content": text}}
            choices.append(self._choice(index, answer, message if self.is_chat else {"text": text}))
        kind = "chat.completion" if self.is_chat else "text_completion"
        counts = usage(answers, self.prompt_tokens)
        return 200, {**self._head(kind), "choices": choices, "usage": counts}

    def chunk(self, choices: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        """An event of a streamed response; the last one has no choices."""
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        body = {**self._head(kind), "choices": list(choices)}
        if self.continuous_usage or not choices:
            body["usage"] = usage(answers, self.prompt_tokens)
        elif self.final_usage:
            body["usage"] = None
        return body

    def opening_choice(self, index: int) -> dict[str, Any]:
        """The first choice of a streamed chat answer."""
        return _choice(index, {"delta": {"role": "assistant", "content": ""}})

    def chunk_choice(self, index: int, answer: Answer, text: str, since: int) -> dict[str, Any]:
        """New text of an answer, log-probabilities of its tokens from number `since` on, and how
        it ended, if it has.
        """
        return self._choice(index, answer, self._delta(text), since)

    def draft_choice(self, index: int, draft: dict[str, Any]) -> dict[str, Any]:
        """A choice without text that carries the canvas."""
        return {**_choice(index, self._delta("")), "draft": draft}

    def _delta(self, text: str) -> dict[str, Any]:
        if not self.is_chat:
            return {"text": text}
        return {"delta": {"content": text} if text else {}}

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _choice(
        self, index: int, answer: Answer, content: dict[str, Any], since: int = 0
    ) -> dict[str, Any]:
        logprobs = self._logprobs(answer, since) if self.logprobs else None
        finish_reason = answer.finish.reason if answer.finish else None
        return _choice(index, content, logprobs, finish_reason)

    def _logprobs(self, answer: Answer, since: int) -> dict[str, Any]:
        """Of the final tokens from number `since` on, in the pass that committed each."""
        ids = answer.detokenizer.ids
        numbers = range(since, answer.detokenizer.ids_in_text)
        first = answer.request.answer_start
        tokens = [self.tokenizer.token_text(ids[number]) for number in numbers]
        values = [round(answer.logprobs[first + number], 6) for number in numbers]
        if self.is_chat:
            content = [_token_logprob(token, value) for token, value in zip(tokens, values)]
            return {"content": content, "refusal": None}
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": None,
            "text_offset": [len(self.tokenizer.decode(ids[:number])) for number in numbers],
        }


def _choice(
    index: int,
    content: dict[str, Any],
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _token_logprob(token: str, value: float) -> dict[str, Any]:
    whole = REPLACEMENT not in token
    return {
        "token": token,
        "logprob": value,
        "bytes": list(token.encode()) if whole else None,
        "top_logprobs": [],
    }


class DraftCanvas:
    """The canvas of one request after each pass: text, confidence and credit of every position."""

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._start = request.answer_start
        self._frame: Frame = initial_frame(range(self._start, request.answer_end), self._start)

    def after(self, event: StepEvent) -> dict[str, Any]:
        """The canvas after a pass. `end` is the first end token's place in the answer."""
        self._frame = next_frame(self._frame, event, self._tokenizer.token_text, self._start)
        cells = self._frame.cells
        end = len(cells)
        for index, cell in reversed(list(enumerate(cells))):
            if cell.state != "masked" and cell.token in self._tokenizer.stop_ids:
                end = index
        written = sum(cell.state != "masked" for cell in cells[:end])
        (delta,) = frame_deltas([self._frame])
        return {**delta, "written": written, "end": end, "length": len(cells)}
