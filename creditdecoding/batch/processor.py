"""Lines answered by an engine in this process, in the order they finish, few of them under way at a
time.

Every line gets one row in OpenAI's batch format, whatever is wrong with it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator
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
from creditdecoding.server.parse import BODY_TYPES, check_body, make_requests, response_format
from creditdecoding.server.responses import ResponseFormat

STREAMED = ("stream_options", "draft", "stream")
Row = dict[str, Any]
Reply = tuple[int, Row]
"""The index of a line and its row."""


@dataclass(frozen=True)
class BatchSettings:
    """All that answers depend on. `run` identifies input and settings: ids and the seeds that lines
    leave out are made from it.
    """

    model: str
    name: str
    engine: EngineConfig
    serve: ServeConfig
    run_id: str
    created: int
    max_line: int

    def key(self, index: int) -> str:
        """A name for the answer to a line, the same whenever the same run is done."""
        return hashlib.blake2b(f"{self.run_id}:{index}".encode(), digest_size=16).hexdigest()

    def id(self, index: int) -> str:
        """The id of a row."""
        return f"batch_req_{self.key(index)}"


@dataclass
class _Job:
    """A line under way: its answers and the numbers the engine gave them."""

    line: Line
    name: str | None
    shape: ResponseFormat
    answers: dict[int, Answer]

    @property
    def over(self) -> bool:
        return any(answer.failure for answer in self.answers.values()) or all(
            answer.done for answer in self.answers.values()
        )


class BatchProcessor:
    """Answers lines; `lm` is any model with its tokenizer."""

    def __init__(self, lm: LM, setting: BatchSettings) -> None:
        self._lm, self._set = lm, setting
        most = max(1, setting.serve.max_waiting)
        self._queue = most
        self._serve = replace(
            setting.serve, max_waiting=most + schema.MAX_CHOICES**2
        )  # a line may ask for that many answers
        self._limits = admission_limits(lm, setting.engine, self._serve)
        self._jobs: dict[int, _Job] = {}

    def answers(self, lines: Iterable[Line]) -> Iterator[Reply]:
        """A reply for every line, as they finish; lines are taken as there is room for them."""
        source, engine = iter(lines), self._engine()
        more = True
        while more or engine.busy:
            while more and engine.stats.waiting < self._queue:
                line = next(source, None)
                more = line is not None
                reply = None if line is None else self._begin(engine, line)
                if reply is not None:
                    yield reply
            try:
                events = engine.step()
            except (
                Exception
            ) as error:  # it costs the rows under way; those to come get a new engine
                text = engine_failure_message(error)
                lost, self._jobs = {id(job): job for job in self._jobs.values()}, {}
                engine = self._engine()
                yield from (
                    self._told(job.line, job.name, 500, error_body(500, text, code="error_failed"))
                    for job in lost.values()
                )
                continue
            for event in events:
                job = self._jobs.get(event.row)
                if job is None:
                    continue
                job.answers[event.row].on_event(event)
                if job.over:
                    yield self._end(engine, job)

    def _engine(self) -> Engine:
        return Engine(
            self._lm.model, self._lm.vocab, self._lm.device, self._set.engine, self._serve
        )

    def _begin(self, engine: Engine, line: Line) -> Reply | None:
        """Hand a line's rows to the engine; the reply where it cannot be served."""
        name = None
        try:
            value = parse_line(line, self._set.max_line)
            name = custom_id(value)
            url, body = parse_request(value, line)
        except OptionError as error:
            return line.index, self._row(
                line, name, None, {"code": "invalid_line", "message": str(error)}
            )
        try:
            asked = BODY_TYPES[url].model_validate(body)
            for field in STREAMED:
                if getattr(asked, field):
                    what = f"{field} is not supported in a batch: answers come whole"
                    raise OptionError(what, hint="Leave it out.", param=field)
            check_body(asked, self._set.name)
            if asked.seed is None:
                asked.seed = int(self._set.key(line.index)[:7], 16)
            self._submit(engine, line, name, asked)
        except schema.InvalidBody as error:
            return self._told(line, name, *validation_body(error.errors()))
        except CreditError as error:
            return self._told(line, name, *refusal_body(error))
        except (
            Exception
        ) as error:  # whatever a tokenizer or a template raises: the other lines go on
            text = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}. Report this with the line."
            return self._told(line, name, 500, error_body(500, text))
        return None

    def _submit(self, engine: Engine, line: Line, name: str | None, asked: Any) -> None:
        """All rows of a line or none."""
        rows = make_requests(self._lm, asked, self._limits)
        shape = response_format(
            self._lm,
            self._set.name,
            asked,
            rows,
            id=self._set.key(line.index),
            created=self._set.created,
        )
        updated = asyncio.Event()
        answers = {
            number: Answer(row, self._lm.vocab, updated)
            for number, row in zip(submit_all(engine, rows), rows)
        }
        job = _Job(line, name, shape, answers)
        self._jobs |= dict.fromkeys(job.answers, job)

    def _end(self, engine: Engine, job: _Job) -> Reply:
        for number, answer in job.answers.items():
            del self._jobs[number]
            if not answer.done:
                engine.abort(number)
        answers = [*job.answers.values()]
        return self._told(job.line, job.name, *job.shape.response(answers))

    def _told(self, line: Line, name: str | None, status: int, body: dict[str, Any]) -> Reply:
        return line.index, self._row(
            line,
            name,
            {"status_code": status, "request_id": self._set.key(line.index), "body": body},
            None,
        )

    def _row(
        self,
        line: Line,
        name: str | None,
        response: dict[str, Any] | None,
        error: dict[str, Any] | None,
    ) -> Row:
        return {
            "id": self._set.id(line.index),
            "custom_id": name,
            "response": response,
            "error": error,
        }


def make_processor(setting: BatchSettings) -> BatchProcessor:
    """A desk with a model of its own: what a worker on another machine begins with."""
    return BatchProcessor(load(setting.model, setting.engine), setting)
