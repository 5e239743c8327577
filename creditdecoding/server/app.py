"""The HTTP application: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics and
the live page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.errors import CreditError, MissingExtraError
from creditdecoding.lm import LM
from creditdecoding.server import schema
from creditdecoding.server.access_log import AccessLog
from creditdecoding.server.admission import Limits, admission_limits
from creditdecoding.server.answer import Answer
from creditdecoding.server.async_engine import AsyncEngine
from creditdecoding.server.error_responses import (
    error_body,
    json_response,
    refusal_body,
    validation_body,
)
from creditdecoding.server.event_stream import EventStream, answer_events
from creditdecoding.server.hosts import HostCheck
from creditdecoding.server.live_page import live_page
from creditdecoding.server.metrics import CONTENT_TYPE, Metrics
from creditdecoding.server.middleware import RequestGuard
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.parse import check_body, check_model, make_requests, make_response_format
from creditdecoding.server.schema import ChatRequest, CompletionRequest

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError("fastapi", "server") from error

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'",
    "x-content-type-options": "nosniff",
}
ERROR: dict[str, Any] = {"model": schema.Error}
GENERATION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/json": {}, "text/event-stream": {}},
        "description": "The answer, or its events.",
    },
    **dict.fromkeys((400, 401, 404, 413, 429, 500, 503), ERROR),
}


def make_app(
    lm: LM, name: str, engine: EngineConfig, serve: ServeConfig, http: HttpConfig
) -> tuple[AccessLog, AsyncEngine]:
    """The ASGI application that serves `lm` under `name`, and its engine, which the caller has to
    close.
    """
    metrics = Metrics(name)
    async_engine = AsyncEngine(
        lm.vocab, lambda: Engine(lm.model, lm.vocab, lm.device, engine, serve), metrics
    )
    limits = admission_limits(lm, engine, serve, http.decoder_files)
    routes = Routes(lm, name, async_engine, metrics, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await async_engine.start()
        yield
        await async_engine.close(http.grace)
        routes.prompt_thread.shutdown(wait=False)

    app = FastAPI(title="creditdecoding", lifespan=lifespan, docs_url=None, redoc_url=None)
    routes.add_to(app)
    _add_error_handlers(app)
    guarded = _allow_origins(RequestGuard(app, http, limits), http)
    return AccessLog(HostCheck(guarded, http), metrics.on_response), async_engine


def _allow_origins(app: ASGIApp, http: HttpConfig) -> ASGIApp:
    """The application with CORS headers, if web pages of other origins may call it."""
    if not http.cors_origin:
        return app
    return CORSMiddleware(
        app,  # type: ignore[arg-type]
        allow_origins=[origin.lower() for origin in http.cors_origin],
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "retry-after"),
    )


class Routes:
    """The endpoints."""

    def __init__(
        self, lm: LM, name: str, async_engine: AsyncEngine, metrics: Metrics, limits: Limits
    ) -> None:
        self.lm = lm
        self.name = name
        self.async_engine = async_engine
        self.limits = limits
        self.prompt_thread = ThreadPoolExecutor(1, "prompts")  # tokenising must not block the loop
        self._metrics = metrics
        self._page = live_page(lm, name)
        self._created = int(time.time())

    def add_to(self, app: FastAPI) -> None:
        """Register all endpoints."""
        answers: dict[str, Any] = {
            "responses": GENERATION_RESPONSES,
            "response_class": JSONResponse,
        }
        app.post("/v1/chat/completions", **answers)(self.chat)
        app.post("/v1/completions", **answers)(self.complete)
        app.get("/v1/models", responses={401: ERROR})(self.models)
        app.get("/v1/models/{model:path}", responses={401: ERROR, 404: ERROR})(self.model)
        app.get("/health", responses={503: {}})(self.health)
        app.get("/metrics", response_class=Response)(self.metrics)
        app.get("/", include_in_schema=False)(self.page)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(body, request)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """Continue plain text."""
        return await self._answer(body, request)

    async def models(self) -> dict[str, Any]:
        """The list of models, which has one."""
        return {"object": "list", "data": [self._model_card()]}

    async def model(self, model: str) -> dict[str, Any]:
        """The model by its name."""
        check_model(model, self.name)
        return self._model_card()

    async def health(self) -> Response:
        """Whether requests are accepted."""
        if self.async_engine.is_open:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "closing"}, 503)

    async def metrics(self) -> Response:
        """Prometheus metrics."""
        text = self._metrics.render(await self.async_engine.stats())
        return Response(text, media_type=CONTENT_TYPE)

    async def page(self) -> Response:
        """The live page."""
        return HTMLResponse(self._page, headers=PAGE_HEADERS)

    def _model_card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "creditdecoding",
            "max_model_len": self.lm.max_length,
        }

    async def _answer(self, body: Any, http_request: Request) -> Response:
        """Admit a body's requests (see `admission`) and respond with their answers."""
        check_body(body, self.name)
        loop = asyncio.get_running_loop()
        requests = await loop.run_in_executor(
            self.prompt_thread, make_requests, self.lm, body, self.limits
        )
        answers = await self.async_engine.submit(requests, keep_steps=bool(body.draft))
        http_request.state.answers = answers  # for the access log
        response_format = make_response_format(self.lm, self.name, body, requests)
        if body.stream:
            events = answer_events(answers, response_format, drafts=bool(body.draft))
            return EventStream(events, on_close=lambda: self.async_engine.abort(answers))
        try:
            await _wait_for(answers, http_request)
        finally:
            self.async_engine.abort(answers)
        return json_response(*response_format.response(answers))


class ClientGoneError(Exception):
    """The client closed the connection before its answer was ready."""


async def _wait_for(answers: Sequence[Answer], http_request: Request) -> None:
    """Wait until all answers are done, or one has failed. Raises `ClientGoneError`."""
    disconnected = asyncio.ensure_future(_disconnected(http_request))
    updated = answers[0].updated
    try:
        while not all(answer.done for answer in answers):
            if any(answer.failure for answer in answers):
                return
            update = asyncio.ensure_future(updated.wait())
            await asyncio.wait({update, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            update.cancel()
            if disconnected.done():
                raise ClientGoneError
            updated.clear()
    finally:
        disconnected.cancel()


async def _disconnected(http_request: Request) -> None:
    while (await http_request.receive())["type"] != "http.disconnect":
        pass


def _add_error_handlers(app: FastAPI) -> None:
    async def invalid(_: Request, error: Any) -> Response:
        return json_response(*validation_body(error.errors()))

    async def not_admitted(_: Request, error: Any) -> Response:
        return json_response(*refusal_body(error))

    async def no_such_route(_: Request, error: Any) -> Response:
        message = f"{error.detail}. See /openapi.json for the endpoints."
        body = error_body(error.status_code, message)
        return json_response(error.status_code, body, error.headers)

    async def client_gone(_: Request, error: Any) -> Response:
        return Response(status_code=499)

    async def bug(_: Request, error: Any) -> Response:
        message = f"internal error: {type(error).__name__}. See the server's log."
        return json_response(500, error_body(500, message))

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(CreditError, not_admitted)
    app.add_exception_handler(HTTPException, no_such_route)
    app.add_exception_handler(ClientGoneError, client_gone)
    app.add_exception_handler(Exception, bug)
