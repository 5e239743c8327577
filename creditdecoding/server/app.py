"""The HTTP surface: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics and the
live page.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.errors import CreditError, MissingExtraError
from creditdecoding.lm import LM
from creditdecoding.server import schema
from creditdecoding.server.access_log import AccessLog
from creditdecoding.server.admission import Limits, admission_limits, check_json_size
from creditdecoding.server.asgi import ASGIApp, Receive, Scope, Send
from creditdecoding.server.async_engine import Answer, AsyncEngine
from creditdecoding.server.hosts import HostCheck
from creditdecoding.server.live_page import live_page
from creditdecoding.server.metrics import CONTENT_TYPE, Metrics
from creditdecoding.server.middleware import RequestGuard
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.parse import (
    make_requests,
    refusal_reason,
    response_format,
    unknown_model,
    validation_message,
)
from creditdecoding.server.responses import (
    DraftCanvas,
    ResponseFormat,
    error_body,
    failure_response,
    refusal_response,
)
from creditdecoding.server.schema import ChatRequest, CompletionRequest

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from fastapi.routing import APIRoute
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise MissingExtraError("fastapi", "server") from error

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'"


class Events(StreamingResponse):
    """Server-sent events; whatever ends them, `after` is called."""

    def __init__(self, content: AsyncIterator[str], after: Callable[[], None]) -> None:
        super().__init__(
            content,
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._after()


def make_app(
    lm: LM, name: str, engine: EngineConfig, serve: ServeConfig, http: HttpConfig
) -> tuple[AccessLog, AsyncEngine]:
    """The ASGI application that serves `lm` under `name`, and its service, which whoever runs it
    has to close.
    """
    metrics = Metrics(name)
    service = AsyncEngine(
        lm.vocab, lambda: Engine(lm.model, lm.vocab, lm.device, engine, serve), metrics
    )
    limits = admission_limits(lm, engine, serve)
    front = Routes(lm, name, service, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close(http.grace)
        front.writing.shutdown(wait=False)

    app = FastAPI(title="creditdecoding", lifespan=lifespan, docs_url=None, redoc_url=None)
    refused: dict[int | str, dict[str, Any]] = {
        s: {"model": schema.Error} for s in (400, 401, 413, 429, 500, 503)
    }
    streamed = {
        "content": {"application/json": {}, "text/event-stream": {}},
        "description": "The answer, or its events.",
    }
    refused[200] = streamed
    app.router.route_class = _weighing(limits)
    app.post("/v1/chat/completions", responses=refused, response_class=JSONResponse)(front.chat)
    app.post("/v1/completions", responses=refused, response_class=JSONResponse)(front.complete)
    app.get("/v1/models", responses={401: {"model": schema.Error}})(front.models)
    app.get(
        "/v1/models/{model:path}",
        responses={401: {"model": schema.Error}, 404: {"model": schema.Error}},
    )(front.model)
    app.get("/health", responses={503: {}})(front.health)

    @app.get("/metrics", response_class=Response)
    async def shown() -> Response:
        return Response(metrics.text(await service.stats()), media_type=CONTENT_TYPE)

    shown_live = live_page(name, lm.max_length)

    @app.get("/", include_in_schema=False)
    async def live() -> HTMLResponse:
        return HTMLResponse(
            shown_live,
            headers={"content-security-policy": POLICY, "x-content-type-options": "nosniff"},
        )

    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(CreditError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientGoneError, _gone_already)
    app.add_exception_handler(ClientDisconnect, _gone_already)
    app.add_exception_handler(Exception, _bug)
    return AccessLog(
        HostCheck(_shared(RequestGuard(app, http), http), http), metrics.on_response
    ), service


def _shared(app: ASGIApp, http: HttpConfig) -> ASGIApp:
    """The application for web pages of other origins too, if there are such that may call it."""
    if not http.cors_origin:
        return app
    return CORSMiddleware(
        app,  # type: ignore[arg-type]
        allow_origins=[origin.lower() for origin in http.cors_origin],
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "retry-after"),
    )


def _weighing(limits: Limits) -> type[APIRoute]:
    """Routes that weigh a body before it is parsed."""

    class Weighing(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def weighed(request: Request) -> Response:
                if request.method == "POST":
                    check_json_size(await request.body(), limits)
                return await answer(request)

            return weighed

    return Weighing


class Routes:
    """The endpoints."""

    def __init__(self, lm: LM, name: str, service: AsyncEngine, limits: Limits) -> None:
        self.lm, self.name, self.service, self.limits = lm, name, service, limits
        self.since = int(time.time())
        self.writing = ThreadPoolExecutor(
            1, "prompts"
        )  # a long prompt must not hold up the others' events

    async def chat(self, asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(asked, request)

    async def complete(self, asked: CompletionRequest, request: Request) -> Response:
        """Continue plain text."""
        return await self._answer(asked, request)

    async def models(self) -> dict[str, Any]:
        """The one model there is."""
        return {"object": "list", "data": [self._card()]}

    async def model(self, model: str) -> Response:
        """The model by its name."""
        if model != self.name:
            return _told(*unknown_model(model, self.name))
        return JSONResponse(self._card())

    async def health(self) -> Response:
        """Whether requests are taken."""
        return (
            JSONResponse({"status": "ok"})
            if self.service.is_open
            else JSONResponse({"status": "closing"}, 503)
        )

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.since,
            "owned_by": "creditdecoding",
            "max_model_len": self.lm.max_length,
        }

    async def _answer(self, asked: Any, request: Request) -> Response:
        against = refusal_reason(asked, self.name)
        if against is not None:
            return _told(*against)
        rows = await asyncio.get_running_loop().run_in_executor(
            self.writing, make_requests, self.lm, asked, self.limits
        )
        if self.service.closing:
            return _error(503, "the server is shutting down. Try another one.", code="closing")
        answers = await self.service.submit(rows, bool(asked.draft))
        request.state.answers = answers  # for the access log
        shape = response_format(self.lm, self.name, asked, rows)
        if asked.stream:
            drafts = [DraftCanvas(row, self.lm.tokenizer) for row in rows] if asked.draft else []
            return Events(_events(answers, shape, drafts), lambda: self.service.abort(answers))
        try:
            await _finished(answers, request)
        finally:
            self.service.abort(answers)
        failed = next((answer for answer in answers if answer.failure), None)
        if failed is not None:
            return _told(*failure_response(failed))
        return JSONResponse(shape.response(answers))


async def _finished(answers: Sequence[Answer], request: Request) -> None:
    """Wait until all have ended, or the client is gone, which raises `ClientGoneError`."""
    gone = asyncio.ensure_future(_gone(request))
    try:
        while not all(answer.done for answer in answers):
            if any(answer.failure for answer in answers):
                return
            bell = asyncio.ensure_future(answers[0].bell.wait())
            done, _ = await asyncio.wait({bell, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                bell.cancel()
                raise ClientGoneError
            answers[0].bell.clear()
    finally:
        gone.cancel()


class ClientGoneError(Exception):
    """The client closed the connection before its answer was ready."""


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@dataclass
class _Sent:
    """What of an answer a stream has told: characters, tokens with their log-probabilities, and
    whether it has ended.
    """

    text: int = 0
    tokens: int = 0
    ended: bool = False


async def _events(
    answers: Sequence[Answer], shape: ResponseFormat, drafts: Sequence[DraftCanvas]
) -> AsyncIterator[str]:
    """Server-sent events: text as it becomes final, the canvas if asked for, how each answer ends,
    the counts if asked for.
    """
    sent = [_Sent() for _ in answers]
    if shape.chat:
        yield _event(shape.chunk([shape.opening_choice(i) for i in range(len(answers))], answers))
    while not all(one.ended for one in sent):
        answers[0].bell.clear()
        for i, answer in enumerate(answers):
            if answer.failure:
                yield _event(failure_response(answer)[1])
                return
            for news in _news(i, answer, shape, drafts[i : i + 1], sent[i]):
                yield _event(shape.chunk([news], answers))
        if not all(one.ended for one in sent):
            await answers[0].bell.wait()
    if shape.final_usage:
        yield _event(shape.chunk([], answers))
    yield "data: [DONE]\n\n"


def _news(
    i: int, answer: Answer, shape: ResponseFormat, drafts: Sequence[DraftCanvas], sent: _Sent
) -> list[dict[str, Any]]:
    """What a stream has not told of answer `i` yet, all of one moment: its canvases, then the text
    that they made final.
    """
    steps, answer.steps = answer.steps, []
    news = [shape.draft_choice(i, draft.after(step)) for draft in drafts for step in steps]
    text = answer.detokenizer.text[sent.text :]
    if not sent.ended and (text or answer.done):
        news.append(shape.chunk_choice(i, answer, text, sent.tokens))
        sent.text += len(text)
        sent.ended = answer.done
        sent.tokens = answer.detokenizer.ids_in_text if shape.logprobs else 0
    return news


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _error(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> JSONResponse:
    return _told(status, error_body(status, message, param, code))


def _told(status: int, body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, status, {"retry-after": "1"} if status in (429, 503) else None)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _error(400, *validation_message(error.errors()))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, CreditError)
    return _told(*refusal_response(error, schema.FIELD_NAMES))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, f"{error.detail}. See /openapi.json for what there is.")
    response.headers.update(error.headers or {})
    return response


async def _gone_already(_: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _bug(_: Request, error: Exception) -> Response:
    return _error(
        500,
        f"something went wrong that should not have: {type(error).__name__}. See the server's log.",
    )
