"""What a request must pass before its body is read: the API key, the size of the body.

Plain ASGI, so that nothing is buffered. Leaves to others: what the requests mean (app.py).
"""

from __future__ import annotations

import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from creditdecoding.config import HttpConfig
from creditdecoding.server.shapes import error_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _TooLargeError(Exception):
    """The body grew beyond the limit while it was read."""


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, config: HttpConfig, count: Callable[[int], None]) -> None:
        self._app, self._config, self._count = app, config, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        size = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._config.max_body:
                raise _TooLargeError
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._count(message["status"])
            await send(message)

        async def mine(message: MutableMapping[str, Any]) -> None:
            if size <= self._config.max_body:  # else the application speaks of a body that it could not read
                await noted(message)

        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._known(scope["path"], headers):
            return await _answer(noted, 401, "the API key is missing or wrong", "invalid_api_key")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._config.max_body:
            return await self._too_large(noted)
        with contextlib.suppress(_TooLargeError):
            await self._app(scope, counted, mine)
        if size > self._config.max_body:
            await self._too_large(noted)

    def _known(self, path: str, headers: MutableMapping[bytes, bytes]) -> bool:
        """Whether the request may pass: only what lies under /v1 asks for the key."""
        if self._config.api_key is None or not path.startswith("/v1"):
            return True
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._config.api_key.encode())

    async def _too_large(self, send: Send) -> None:
        await _answer(send, 413, f"the body is too large; allowed: {self._config.max_body} bytes. Send less, or start the server with --max-body.")


async def _answer(send: Send, status: int, message: str, code: str | None = None) -> None:
    """A whole response with an error; the connection is closed, because the body was not read."""
    body = json.dumps(error_body(status, message, code=code)).encode()
    extra = [(b"www-authenticate", b"Bearer")] if status == 401 else []
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close"), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
