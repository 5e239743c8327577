"""What a request must pass before its body is read: the API key, the type and the size of the body.

Plain ASGI, so that nothing is buffered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Mapping

from creditdecoding.server.asgi import ASGIApp, Message, Receive, Scope, Send, send_error
from creditdecoding.server.options import HttpConfig

LINGER = 1.0  # seconds
UNREAD = 16  # times the largest body


class _TooLargeError(Exception):
    """The body grew beyond the limit while it was read."""


class RequestGuard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, config: HttpConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._known(scope["path"], headers):
            challenge = [(b"www-authenticate", b"Bearer")]
            return await send_error(
                send,
                401,
                "the API key is missing or wrong. Send it in the header Authorization: Bearer KEY.",
                "invalid_api_key",
                challenge,
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._config.max_body:
            if b"expect" not in headers:
                await self._read_on(receive)
            return await self._too_large(send)
        if _has_body(headers) and not _is_json(headers):
            given = headers.get(b"content-type", b"none").decode("latin-1")[:100]
            return await send_error(
                send,
                400,
                f"the body's content-type is {given!a}; allowed: application/json. Send JSON under that header.",
            )
        if scope["method"] == "HEAD":  # as GET; whoever sends the response leaves its body out
            scope = {**scope, "method": "GET"}
        await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; it reads no more than the largest body."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._config.max_body:
                raise _TooLargeError
            return message

        async def own(message: Message) -> None:
            if size <= self._config.max_body:  # else it speaks of a body that it could not read
                await send(message)

        with contextlib.suppress(_TooLargeError):
            await self._app(scope, counted, own)
        if size > self._config.max_body:
            await self._read_on(receive)
            await self._too_large(send)

    def _known(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the request may pass: only what lies under /v1 asks for the key."""
        if self._config.api_key is None or not path.startswith("/v1"):
            return True
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(key.strip(), self._config.api_key.encode())
        return kind.lower() == b"bearer" and right

    async def _read_on(self, receive: Receive) -> None:
        """Read a little of what will not be used: who still sends when the connection closes may
        not see the answer.
        """

        async def read() -> None:
            left = UNREAD * self._config.max_body
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), LINGER)

    async def _too_large(self, send: Send) -> None:
        await send_error(
            send,
            413,
            f"the body is too large; allowed: {self._config.max_body} bytes. Send less, or start the server with --max-body.",
        )


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return (
        b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""
    )


def _is_json(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a body is said to be JSON. Web pages of other sites cannot say so unasked, plain text
    they can.
    """
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return kind == b"application/json" or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    )
