"""Whole responses that are given without the application: refusals, as ASGI messages or as the
bytes of HTTP.

The connection is closed after each, because the request may not have been read.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

from creditdecoding.server.responses import error_body

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]


async def send_error(
    send: Send, status: int, message: str, code: str | None = None, more: Sequence[Header] = ()
) -> None:
    """Send a whole response with an error in OpenAI's shape; `more` are further headers."""
    headers, body = _refusal(status, message, code)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *more]})
    await send({"type": "http.response.body", "body": body})


def raw_error(status: int, message: str, code: str | None, request_id: str) -> bytes:
    """The same as bytes, for a connection that no application has been given."""
    headers, body = _refusal(status, message, code)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"x-request-id: " + request_id.encode()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _refusal(status: int, message: str, code: str | None) -> tuple[list[Header], bytes]:
    body = json.dumps(error_body(status, message, code=code)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    return headers, body
