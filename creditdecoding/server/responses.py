"""Answers in OpenAI's shapes, as plain data."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from creditdecoding.decoding.request import Request
from creditdecoding.server.answer import Answer
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
    """The shape of the response to one HTTP request; the subclasses are its endpoints.

    Streams carry `usage` in a last event if `final_usage`, in every event if `continuous_usage`.
    """

    id_prefix: ClassVar[str]
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    model: str
    tokenizer: Tokenizer
    prompt_tokens: int
    logprobs: bool = False
    final_usage: bool = False
    continuous_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def response(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response to a request that is not streamed."""
        choices = [
            self._choice(index, answer, self.message(answer.detokenizer.text))
            for index, answer in enumerate(answers)
        ]
        counts = usage(answers, self.prompt_tokens)
        return {**self._head(self.object), "choices": choices, "usage": counts}

    def chunk(self, choices: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        """An event of a streamed response; the last one has no choices."""
        body = {**self._head(self.chunk_object), "choices": list(choices)}
        if self.continuous_usage or not choices:
            body["usage"] = usage(answers, self.prompt_tokens)
        elif self.final_usage:
            body["usage"] = None
        return body

    def chunk_choice(self, index: int, answer: Answer, text: str, since: int) -> dict[str, Any]:
        """New text of an answer, log-probabilities of its tokens from number `since` on, and how
        it ended, if it has.
        """
        return self._choice(index, answer, self.delta(text), since)

    def draft_choice(self, index: int, draft: dict[str, Any]) -> dict[str, Any]:
        """A choice without text that carries the canvas."""
        return {**_choice(index, self.delta(""), None, None), "draft": draft}

    def opening_choices(self, count: int) -> list[dict[str, Any]]:
        """Choices of an event before all others."""
        return []

    def message(self, text: str) -> dict[str, Any]:
        """The part of a choice that holds the whole text."""
        raise NotImplementedError

    def delta(self, text: str) -> dict[str, Any]:
        """The part of an event's choice that holds new text."""
        raise NotImplementedError

    def logprobs_body(
        self, tokens: Sequence[str], values: Sequence[float], starts: Sequence[int]
    ) -> dict[str, Any]:
        """The log-probabilities of tokens that begin at these characters of the answer."""
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.id_prefix}-{self.id}",
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
        start = answer.request.answer_start
        return self.logprobs_body(
            [self.tokenizer.token_text(ids[number]) for number in numbers],
            [round(answer.logprobs[start + number], 6) for number in numbers],
            [len(self.tokenizer.decode(ids[:number])) for number in numbers],
        )


def _choice(
    index: int, content: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}


class ChatFormat(ResponseFormat):
    """Responses of /v1/chat/completions."""

    id_prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening_choices(self, count: int) -> list[dict[str, Any]]:
        """The role of each answer."""
        content = {"delta": {"role": "assistant", "content": ""}}
        return [_choice(index, content, None, None) for index in range(count)]

    def message(self, text: str) -> dict[str, Any]:
        """An assistant's message."""
        return {"message": {"role": "assistant", "content": text}}

    def delta(self, text: str) -> dict[str, Any]:
        """New text of the message."""
        return {"delta": {"content": text} if text else {}}

    def logprobs_body(
        self, tokens: Sequence[str], values: Sequence[float], starts: Sequence[int]
    ) -> dict[str, Any]:
        """An object per token."""
        content = [
            {
                "token": token,
                "logprob": value,
                "bytes": None if REPLACEMENT in token else list(token.encode()),
                "top_logprobs": [],
            }
            for token, value in zip(tokens, values)
        ]
        return {"content": content, "refusal": None}


class CompletionFormat(ResponseFormat):
    """Responses of /v1/completions."""

    id_prefix = "cmpl"
    object = chunk_object = "text_completion"

    def message(self, text: str) -> dict[str, Any]:
        """The text."""
        return {"text": text}

    delta = message

    def logprobs_body(
        self, tokens: Sequence[str], values: Sequence[float], starts: Sequence[int]
    ) -> dict[str, Any]:
        """A list per property."""
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": None,
            "text_offset": starts,
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
        written = [cell.state != "masked" for cell in cells]
        is_end = [
            is_written and cell.token in self._tokenizer.stop_ids
            for is_written, cell in zip(written, cells)
        ]
        end = is_end.index(True) if any(is_end) else len(cells)
        (delta,) = frame_deltas([self._frame])
        return {**delta, "written": sum(written[:end]), "end": end, "length": len(cells)}
