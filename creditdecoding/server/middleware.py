"""ASGI middleware that checks a request before it is parsed: API key, size, type and JSON
structure of the body.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING

from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.server.admission import Limits, check_json_size
from creditdecoding.server.error_responses import closing_error, json_response, refusal_body
from creditdecoding.server.options import HttpConfig

try:
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
except ImportError as error:
    raise MissingExtraError("fastapi", "server") from error
if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_SECONDS = 1.0
DRAIN_BODIES = 16  # times the maximum body

Headers = Mapping[bytes, bytes]


class RefusedError(Exception):
    """A request that is not passed on, and the response to it."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class RequestGuard:
    """Passes on the requests with the right key and an acceptable body, refuses the others."""

    def __init__(self, app: ASGIApp, config: HttpConfig, limits: Limits) -> None:
        self._app = app
        self._config = config
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_key(scope["path"], headers)
            await self._check_length(headers, receive)
            _check_type(headers)
            body = await self._read_body(receive)
        except RefusedError as refusal:
            await refusal.response(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # handled as GET; the protocol leaves the body out
            scope = {**scope, "method": "GET"}
        await self._app(scope, _replay(body, receive), send)

    def _check_key(self, path: str, headers: Headers) -> None:
        """Only paths under /v1 need the key."""
        if self._config.api_key is None or not path.startswith("/v1"):
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        is_right = hmac.compare_digest(key.strip(), self._config.api_key.encode())
        if scheme.lower() != b"bearer" or not is_right:
            message = (
                "the API key is missing or wrong. Send it in the header Authorization: Bearer KEY."
            )
            challenge = {"www-authenticate": "Bearer"}
            raise RefusedError(closing_error(401, message, "invalid_api_key", challenge))

    async def _check_length(self, headers: Headers, receive: Receive) -> None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._config.max_body:
            if b"expect" not in headers:
                await self._drain(receive)
            raise self._too_large()

    async def _read_body(self, receive: Receive) -> bytes:
        """The whole body, if it is not too large and its JSON is not either."""
        chunks = []
        size = 0
        try:
            async for chunk in Request({"type": "http"}, receive).stream():
                size += len(chunk)
                if size > self._config.max_body:
                    await self._drain(receive)
                    raise self._too_large()
                chunks.append(chunk)
        except ClientDisconnect:
            raise RefusedError(Response(status_code=499)) from None
        body = b"".join(chunks)
        try:
            check_json_size(body, self._limits)
        except OptionError as error:
            raise RefusedError(json_response(*refusal_body(error))) from error
        return body

    async def _drain(self, receive: Receive) -> None:
        """Read some of a body that is not used: a client that is still sending when the connection
        closes may not see the response.
        """

        async def read() -> None:
            left = DRAIN_BODIES * self._config.max_body
            more = True
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), DRAIN_SECONDS)

    def _too_large(self) -> RefusedError:
        message = (
            f"the body is too large; allowed: {self._config.max_body} bytes. "
            "Send less, or start the server with --max-body."
        )
        return RefusedError(closing_error(413, message))


def _check_type(headers: Headers) -> None:
    """A body must be declared as JSON, which web pages of other origins cannot do without CORS."""
    has_body = headers.get(b"content-length", b"0").strip(b"0") or b"transfer-encoding" in headers
    content_type = headers.get(b"content-type", b"none").decode("latin-1")
    kind = content_type.partition(";")[0].strip().lower()
    is_json = kind.startswith("application/") and kind.endswith(("/json", "+json"))
    if has_body and not is_json:
        message = (
            f"the body's content-type is {content_type[:100]!a}; allowed: application/json. "
            "Send JSON under that header."
        )
        raise RefusedError(closing_error(400, message))


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for an application that was not given the body yet."""
    is_read = False

    async def receive_body_first() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body_first
