"""Answers in OpenAI's shapes, as plain data."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from creditdecoding.choice_scores import ChoiceScore
from creditdecoding.decoding.request import Request
from creditdecoding.server.answer import Answer
from creditdecoding.server.error_responses import StatusAndBody, failure_body
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import Alternatives, StepEvent
from creditdecoding.viewer.frames import Frame, frame_deltas, initial_frame, next_frame

REPLACEMENT = "\ufffd"  # stands for bytes that are no whole character


def usage(answers: Sequence[Answer], prompt_tokens: int) -> dict[str, Any]:
    """Counts of a request so far: the prompt's tokens, final tokens and passes of all answers."""
    tokens = sum(answer.token_count for answer in answers)
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
    top_logprobs: int = 0
    scores: Callable[[Sequence[Alternatives], int], Sequence[ChoiceScore]] | None = None
    final_usage: bool = False
    continuous_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def response(self, answers: Sequence[Answer]) -> StatusAndBody:
        """The response to a request that is not streamed; an error if one of the answers failed."""
        for answer in answers:
            if answer.failure is not None:
                return failure_body(answer.failure)
        kind = "chat.completion" if self.is_chat else "text_completion"
        counts = usage(answers, self.prompt_tokens)
        choices = self._choices(answers) if self.scores is None else self._scored_choices(answers)
        return 200, {**self._head(kind), "choices": choices, "usage": counts}

    def _choices(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        choices = []
        for index, answer in enumerate(answers):
            text = answer.detokenizer.text
            message = {"message": {"role": "assistant", "content": text}}
            choices.append(self._choice(index, answer, message if self.is_chat else {"text": text}))
        return choices

    def _scored_choices(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """A choice for each that was scored, with the log-probabilities of its tokens."""
        assert self.scores is not None
        rows = [tuple(row for _, row in sorted(answer.alternatives.items())) for answer in answers]
        choices = []
        for index, score in enumerate(self.scores(rows, self.top_logprobs)):
            values = [round(value, 6) for value in score.logprobs]
            logprobs = self._completion_logprobs(score.ids, values, score.top_logprobs)
            choices.append(_choice(index, {"text": score.text}, logprobs, "stop"))
        return choices

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
        numbers = range(since, answer.detokenizer.ids_in_text)
        first = answer.request.answer_start
        values = [_rounded(answer.logprobs.get(first + number)) for number in numbers]
        top = [answer.alternatives.get(first + number, ()) for number in numbers]
        ids = answer.detokenizer.ids
        if not self.is_chat:
            return self._completion_logprobs(ids, values, top, since)
        content = [
            self._token_logprob(ids[number], value, pairs)
            for number, value, pairs in zip(numbers, values, top)
        ]
        return {"content": content, "refusal": None}

    def _completion_logprobs(
        self,
        ids: Sequence[int],
        values: Sequence[float | None],
        top: Alternatives | Sequence[tuple[tuple[int, float], ...]],
        since: int = 0,
    ) -> dict[str, Any]:
        """The values of ids from number `since` on; None for a token that was given."""
        numbers = range(since, since + len(values))
        likeliest = [self._by_text(pairs) for pairs in top]
        return {
            "tokens": [self.tokenizer.token_text(ids[number]) for number in numbers],
            "token_logprobs": values,
            "top_logprobs": likeliest if self.top_logprobs else None,
            "text_offset": [len(self.tokenizer.decode(ids[:number])) for number in numbers],
        }

    def _by_text(self, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        """The likeliest ids by their text, of ids with the same text the likelier one."""
        by_text: dict[str, float] = {}
        for token, value in top:
            by_text.setdefault(self.tokenizer.token_text(token), round(value, 6))
        return by_text

    def _token_logprob(
        self, token: int, value: float | None, top: Sequence[tuple[int, float]]
    ) -> dict[str, Any]:
        """A token of a chat answer, and the likeliest ones in its place."""
        text = self.tokenizer.token_text(token)
        others = [_text_logprob(self.tokenizer.token_text(i), _rounded(lp)) for i, lp in top]
        return {**_text_logprob(text, value), "top_logprobs": others}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _choice(
    index: int,
    content: dict[str, Any],
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _text_logprob(token: str, value: float | None) -> dict[str, Any]:
    whole = REPLACEMENT not in token
    return {
        "token": token,
        "logprob": value,
        "bytes": list(token.encode()) if whole else None,
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
