"""Answers the lines of a batch with an engine in this process, in the order they finish.

Every line gets one output row in OpenAI's batch format, also if it cannot be served.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from creditdecoding.batch.input import Line, custom_id, parse_line, parse_request
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.errors import CreditError, OptionError
from creditdecoding.lm import LM, load
from creditdecoding.server import schema
from creditdecoding.server.admission import admission_limits, submit_all
from creditdecoding.server.answer import Answer
from creditdecoding.server.error_responses import (
    engine_failure_message,
    error_body,
    refusal_body,
    validation_body,
)
from creditdecoding.server.parse import BODY_TYPES, check_body, make_requests, make_response_format
from creditdecoding.server.responses import ResponseFormat

STREAMING_FIELDS = ("stream_options", "draft", "stream")
OutputRow = dict[str, Any]
Reply = tuple[int, OutputRow]
"""The index of a line and its output row."""


@dataclass(frozen=True)
class BatchSettings:
    """Everything that answers depend on. `run_id` identifies input and settings; ids, and seeds of
    lines without one, are derived from it.
    """

    model: str
    name: str
    engine: EngineConfig
    serve: ServeConfig
    run_id: str
    created: int
    max_line: int
    decoder_files: str | None = None

    def answer_id(self, index: int) -> str:
        """An id for the answer to a line, the same in every attempt of a run."""
        return hashlib.blake2b(f"{self.run_id}:{index}".encode(), digest_size=16).hexdigest()

    def row_id(self, index: int) -> str:
        """The id of an output row."""
        return f"batch_req_{self.answer_id(index)}"


@dataclass
class _ActiveLine:
    """A line under way: its answers by the engine's numbers."""

    line: Line
    name: str | None
    format: ResponseFormat
    answers: dict[int, Answer]

    @property
    def ended(self) -> bool:
        """Whether all answers are done, or one failed."""
        answers = self.answers.values()
        return any(answer.failure for answer in answers) or all(answer.done for answer in answers)


class BatchProcessor:
    """Answers lines with a model and its tokenizer."""

    def __init__(self, lm: LM, settings: BatchSettings) -> None:
        self._lm = lm
        self._settings = settings
        self._max_waiting = max(1, settings.serve.max_waiting)
        # Lines are read while fewer requests wait; the last one read may add many.
        queue_size = self._max_waiting + schema.MAX_CHOICES**2
        self._serve = replace(settings.serve, max_waiting=queue_size)
        self._limits = admission_limits(lm, settings.engine, self._serve, settings.decoder_files)
        self._active: dict[int, _ActiveLine] = {}
        self._engine = self._new_engine()

    def answers(self, lines: Iterable[Line]) -> Iterator[Reply]:
        """A reply for every line, as they finish; lines are read as there is room for them."""
        self._engine, self._active = self._new_engine(), {}  # not those of an abandoned call
        unread = iter(lines)
        line = next(unread, None)
        while line is not None or self._engine.busy:
            while line is not None and self._engine.stats.waiting < self._max_waiting:
                refusal = self._begin(line)
                if refusal is not None:
                    yield refusal
                line = next(unread, None)
            yield from self._step()

    def _new_engine(self) -> Engine:
        lm = self._lm
        return Engine(lm.model, lm.vocab, lm.device, self._settings.engine, self._serve)

    def _step(self) -> Iterator[Reply]:
        """Run one pass; replies to the lines that it ends."""
        try:
            events = self._engine.step()
        except Exception as error:  # active lines fail, later ones get a new engine
            lost = {id(active): active for active in self._active.values()}
            self._active = {}
            self._engine = self._new_engine()
            body = error_body(500, engine_failure_message(error), code="error_failed")
            for active in lost.values():
                yield self._reply(active.line, active.name, 500, body)
            return
        for event in events:
            if event.row not in self._active:  # its line has ended
                continue
            active = self._active[event.row]
            active.answers[event.row].on_event(event)
            if active.ended:
                yield self._end(active)

    def _begin(self, line: Line) -> Reply | None:
        """Queue a line's requests; the reply if it cannot be served."""
        name = None
        try:
            value = parse_line(line, self._settings.max_line)
            name = custom_id(value)
            url, fields = parse_request(value, line)
        except OptionError as error:
            invalid = {"code": "invalid_line", "message": str(error)}
            return line.index, self._row(line, name, error=invalid)
        try:
            self._submit(line, name, self._checked_body(line, url, fields))
        except schema.InvalidBody as error:
            return self._reply(line, name, *validation_body(error.errors()))
        except CreditError as error:
            return self._reply(line, name, *refusal_body(error))
        except Exception as error:  # of a tokenizer or a template; other lines go on
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            text = f"internal error: {reason}. Report this with the line."
            return self._reply(line, name, 500, error_body(500, text))
        return None

    def _checked_body(self, line: Line, url: str, fields: dict[str, Any]) -> Any:
        """The body of a line, with a seed. Raises `OptionError` and `InvalidBody`."""
        body = BODY_TYPES[url].model_validate(fields)
        for field in STREAMING_FIELDS:
            if getattr(body, field):
                raise OptionError(
                    f"{field} is not supported in a batch: answers come whole",
                    hint="Leave it out.",
                    param=field,
                )
        check_body(body, self._settings.name)
        if body.seed is None:
            body.seed = int(self._settings.answer_id(line.index)[:7], 16)
        return body

    def _submit(self, line: Line, name: str | None, body: Any) -> None:
        """Queue all requests of a line or none."""
        lm, settings = self._lm, self._settings
        requests = make_requests(lm, body, self._limits)
        answer_id = settings.answer_id(line.index)
        format = make_response_format(
            lm, settings.name, body, requests, id=answer_id, created=settings.created
        )
        numbers = submit_all(self._engine, requests)
        answers = self._new_answers(numbers, requests)
        active = _ActiveLine(line, name, format, answers)
        self._active |= dict.fromkeys(answers, active)

    def _new_answers(self, numbers: Sequence[int], requests: Sequence[Any]) -> dict[int, Answer]:
        updated = asyncio.Event()
        return {
            number: Answer(request, self._lm.vocab, updated)
            for number, request in zip(numbers, requests)
        }

    def _end(self, active: _ActiveLine) -> Reply:
        for number, answer in active.answers.items():
            del self._active[number]
            if not answer.done:
                self._engine.abort(number)
        response = active.format.response(list(active.answers.values()))
        return self._reply(active.line, active.name, *response)

    def _reply(self, line: Line, name: str | None, status: int, body: dict[str, Any]) -> Reply:
        request_id = self._settings.answer_id(line.index)
        response = {"status_code": status, "request_id": request_id, "body": body}
        return line.index, self._row(line, name, response=response)

    def _row(
        self,
        line: Line,
        name: str | None,
        response: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> OutputRow:
        row_id = self._settings.row_id(line.index)
        return {"id": row_id, "custom_id": name, "response": response, "error": error}


def make_processor(settings: BatchSettings) -> BatchProcessor:
    """Load the model and make a processor, as a worker on another machine does."""
    return BatchProcessor(load(settings.model, settings.engine), settings)
