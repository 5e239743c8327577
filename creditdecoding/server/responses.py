"""Answers and errors in OpenAI's shapes, as plain data."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from creditdecoding.decoding.request import Request
from creditdecoding.errors import CreditError, OptionError, QueueFullError
from creditdecoding.server.async_engine import Answer
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import StepEvent
from creditdecoding.viewer.frames import Frame, frame_deltas, initial_frame, next_frame

STATUS = {"memory": 503, "closing": 503}
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


LONGEST = 2000  # characters of an error
LONGEST_NAME = 200  # and of the field it names


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object, of bounded length; what is not valid Unicode in it is replaced."""
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    named = None if param is None else _sound(param, LONGEST_NAME)
    return {
        "error": {"message": _sound(message, LONGEST), "type": kind, "param": named, "code": code}
    }


def _sound(text: str, most: int) -> str:
    """Valid Unicode on one line, of no more than `most` characters."""
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return " ".join(cut.encode("utf-8", "replace").decode().splitlines())


def failure_response(answer: Answer) -> tuple[int, dict[str, Any]]:
    """Status and body for an answer that failed."""
    assert answer.failure is not None
    reason, text = answer.failure
    status = STATUS.get(reason, 500)
    return status, error_body(status, text, code=f"{reason}_failed" if status == 500 else reason)


def refusal_response(error: CreditError, fields: Collection[str]) -> tuple[int, dict[str, Any]]:
    """Status and body for a request that was not admitted; `fields` are names that the message may
    begin with.
    """
    if isinstance(error, QueueFullError):
        return 429, error_body(429, str(error), code="queue_full")
    if not isinstance(error, OptionError):
        return 503, error_body(503, str(error), code="unavailable")
    first = error.what.split()[0] if error.what else ""
    param = error.param or (first if first in fields else None)
    return 400, error_body(400, str(error), param)


def usage(answers: Sequence[Answer], prompts: int) -> dict[str, Any]:
    """Counts of a request so far: the prompt's tokens once, passes and final tokens of all its
    answers.
    """
    tokens = sum(len(answer.detokenizer.ids) for answer in answers)
    passes = sum(answer.nfe for answer in answers)
    tpf = round(tokens / passes, 4) if passes else 0.0
    return {
        "prompt_tokens": prompts,
        "completion_tokens": tokens,
        "total_tokens": prompts + tokens,
        "nfe": passes,
        "tpf": tpf,
    }


@dataclass(frozen=True)
class ResponseFormat:
    """How the answers to one request look: of /v1/chat/completions (`chat`) or of /v1/completions,
    to `prompts` tokens.

    Events of a stream tell the counts at the end if `counted`, those so far in every event if
    `counting`.
    """

    chat: bool
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
            self._choice(i, answer, answer.detokenizer.text, 0, False)
            for i, answer in enumerate(answers)
        ]
        return {
            **self._head(False),
            "choices": choices,
            "usage": usage(answers, self.prompt_tokens),
        }

    def chunk(self, choices: Sequence[dict[str, Any]], answers: Sequence[Answer]) -> dict[str, Any]:
        """An event of a streamed response; the one without choices is the last."""
        counts = (
            usage(answers, self.prompt_tokens) if self.continuous_usage or not choices else None
        )
        return {
            **self._head(True),
            "choices": list(choices),
            **({"usage": counts} if self.final_usage or self.continuous_usage else {}),
        }

    def chunk_choice(self, index: int, answer: Answer, text: str, since: int) -> dict[str, Any]:
        """A choice of an event: `text` that came, log-probabilities of the tokens from number
        `since` on, the end if it came.
        """
        return self._choice(index, answer, text, since, True)

    def opening_choice(self, index: int) -> dict[str, Any]:
        """The choice that begins a streamed chat answer."""
        return {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def draft_choice(self, index: int, draft: dict[str, Any]) -> dict[str, Any]:
        """A choice without text that carries the canvas."""
        body: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        return {"index": index, **body, "logprobs": None, "finish_reason": None, "draft": draft}

    def _head(self, part: bool) -> dict[str, Any]:
        name = (
            ("chat.completion.chunk" if part else "chat.completion")
            if self.chat
            else "text_completion"
        )
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": name,
            "created": self.created,
            "model": self.model,
        }

    def _choice(
        self, index: int, answer: Answer, text: str, since: int, part: bool
    ) -> dict[str, Any]:
        if not self.chat:
            body: dict[str, Any] = {"text": text}
        elif part:
            body = {"delta": {"content": text} if text else {}}
        else:
            body = {"message": {"role": "assistant", "content": text}}
        reason = answer.finish.reason if answer.finish else None
        return {
            "index": index,
            **body,
            "logprobs": self._logprobs(answer, since) if self.logprobs else None,
            "finish_reason": reason,
        }

    def _logprobs(self, answer: Answer, since: int) -> dict[str, Any]:
        """The final tokens from number `since` on, each with what the model gave it in the pass
        that wrote it.
        """
        ids = answer.detokenizer.ids[since : answer.detokenizer.ids_in_text]
        values = [
            round(answer.logprobs[answer.row.answer_start + since + i], 6) for i in range(len(ids))
        ]
        pieces = [self.tokenizer.token_text(token) for token in ids]
        if self.chat:
            rows = zip(pieces, values)
            return {
                "content": [
                    {
                        "token": p,
                        "logprob": v,
                        "bytes": None if "\ufffd" in p else list(p.encode()),
                        "top_logprobs": [],
                    }
                    for p, v in rows
                ],
                "refusal": None,
            }
        starts = [
            len(self.tokenizer.decode(answer.detokenizer.ids[: since + i])) for i in range(len(ids))
        ]
        return {
            "tokens": pieces,
            "token_logprobs": values,
            "top_logprobs": None,
            "text_offset": starts,
        }


class DraftCanvas:
    """The canvas of one row as pictures: after every pass all its positions, by confidence and
    credit.
    """

    def __init__(self, row: Request, tokenizer: Tokenizer) -> None:
        self._row, self._tokenizer = row, tokenizer
        self._frame: Frame = initial_frame(
            range(row.answer_start, row.answer_end), row.answer_start
        )

    def after(self, event: StepEvent) -> dict[str, Any]:
        """The canvas after a pass. `end`: where an end token was written first, what lies behind it
        is no answer.
        """
        self._frame = next_frame(
            self._frame, event, self._tokenizer.token_text, self._row.answer_start
        )
        stops, cells = self._tokenizer.stop_ids, self._frame.cells
        end = next(
            (i for i, cell in enumerate(cells) if cell.state != "masked" and cell.token in stops),
            len(cells),
        )
        written = sum(cell.state != "masked" for cell in cells[:end])
        return {
            **frame_deltas([self._frame])[0],
            "written": written,
            "end": end,
            "length": len(cells),
        }
