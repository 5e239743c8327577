"""ASGI middleware that checks a request before its body is read: API key, type and size of the
body.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Mapping

from creditdecoding.server.error_responses import ASGIApp, Message, Receive, Scope, Send, send_error
from creditdecoding.server.options import HttpConfig

DRAIN_SECONDS = 1.0
DRAIN_BODIES = 16  # times the maximum body

Headers = Mapping[bytes, bytes]


class _TooLargeError(Exception):
    """The body grew beyond the limit while it was read."""


class RequestGuard:
    """Passes on the requests with the right key and an acceptable body, refuses the others."""

    def __init__(self, app: ASGIApp, config: HttpConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._has_access(scope["path"], headers):
            return await _refuse_key(send)
        if self._is_too_large(headers):
            if b"expect" not in headers:
                await self._drain(receive)
            return await self._refuse_size(send)
        if _has_body(headers) and not _is_json(headers):
            return await _refuse_type(send, headers)
        if scope["method"] == "HEAD":  # handled as GET; the protocol leaves the body out
            scope = {**scope, "method": "GET"}
        await self._pass_on(scope, receive, send)

    def _has_access(self, path: str, headers: Headers) -> bool:
        """Whether the key is right, or not needed: only paths under /v1 need it."""
        if self._config.api_key is None or not path.startswith("/v1"):
            return True
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        is_right = hmac.compare_digest(key.strip(), self._config.api_key.encode())
        return scheme.lower() == b"bearer" and is_right

    def _is_too_large(self, headers: Headers) -> bool:
        length = headers.get(b"content-length", b"0")
        return not length.isdigit() or int(length[:20]) > self._config.max_body

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on at most `max_body` bytes."""
        size = 0

        async def receive_counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._config.max_body:
                raise _TooLargeError
            return message

        async def send_unless_too_large(message: Message) -> None:
            if size <= self._config.max_body:
                await send(message)

        with contextlib.suppress(_TooLargeError):
            await self._app(scope, receive_counted, send_unless_too_large)
        if size > self._config.max_body:
            await self._drain(receive)
            await self._refuse_size(send)

    async def _drain(self, receive: Receive) -> None:
        """Read some of an unused body: a client that is still sending when the connection closes
        may not see the response.
        """

        async def read() -> None:
            left = DRAIN_BODIES * self._config.max_body
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), DRAIN_SECONDS)

    async def _refuse_size(self, send: Send) -> None:
        message = (
            f"the body is too large; allowed: {self._config.max_body} bytes. "
            "Send less, or start the server with --max-body."
        )
        await send_error(send, 413, message)


async def _refuse_key(send: Send) -> None:
    message = "the API key is missing or wrong. Send it in the header Authorization: Bearer KEY."
    challenge = [(b"www-authenticate", b"Bearer")]
    await send_error(send, 401, message, "invalid_api_key", challenge)


async def _refuse_type(send: Send, headers: Headers) -> None:
    content_type = headers.get(b"content-type", b"none").decode("latin-1")[:100]
    message = (
        f"the body's content-type is {content_type!a}; allowed: application/json. "
        "Send JSON under that header."
    )
    await send_error(send, 400, message)


def _has_body(headers: Headers) -> bool:
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" in headers or length.strip(b"0") != b""


def _is_json(headers: Headers) -> bool:
    """Whether the body is declared as JSON, which web pages of other origins cannot do without
    CORS.
    """
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_application = content_type.startswith(b"application/")
    return content_type == b"application/json" or (
        is_application and content_type.endswith(b"+json")
    )
