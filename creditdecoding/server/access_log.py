"""Request ids, and a line in the log for every request: id, method, path, status, seconds, what was
decoded for it.

The outermost part of the application, so that refusals have ids and lines too. Neither the query
nor a header nor a body is logged: they
may hold keys and prompts.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from creditdecoding.server.asgi import ASGIApp, Message, Receive, Scope, Send, send_error

LOG = logging.getLogger("creditdecoding.server")
ACCESS_LOG = LOG.getChild("access")
SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
SHOWN_METHOD = 20
SHOWN_PATH = 200


def new_id() -> str:
    """An id for a request that brings none."""
    return uuid.uuid4().hex


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The id that a request brings in X-Request-Id, if it is short and plain; else a new one."""
    for name, value in headers:
        if name.lower() == b"x-request-id" and SANE_ID.fullmatch(value):
            return value.decode()
    return new_id()


@dataclass
class AccessRecord:
    """What is known of one request and its response. `state` is what the application notes of it."""

    request_id: str = field(default_factory=new_id)
    method: str = "-"
    path: str = "-"
    status: int | None = None
    whole: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """The record as a line of the log, free of control characters."""
        status = "-" if self.status is None else str(self.status)
        words = [
            self.request_id,
            self.method,
            self.path,
            status,
            f"{time.monotonic() - self.begun:.3f}s",
        ]
        answers = self.state.get("answers", ())
        if answers:
            words.append(f"rows={len(answers)}")
            words.append(f"tokens={sum(len(answer.reading.ids) for answer in answers)}")
            words.append(f"passes={sum(answer.nfe for answer in answers)}")
        if not self.whole:
            words.append("cut-off")
        return " ".join(words)


class AccessLog:
    """An ASGI application around another one. `count` is told the status of every response."""

    def __init__(self, app: ASGIApp, count: Callable[[int], None]) -> None:
        self._app = app
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = _record(scope)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                own = (b"x-request-id", record.request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), own]}
            else:
                record.whole = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:
            LOG.exception("%s failed", record.request_id)
            if record.status is None:
                await send_error(
                    noted, 500, "something went wrong that should not have. See the server's log."
                )
        finally:
            self.note(record)

    def note(self, record: AccessRecord) -> None:
        """Count a response and log its request."""
        told = record.state.get("told")  # instead of the application's answer
        if told is not None:
            record.status = told
            record.whole = True
        if record.status is not None:
            self.count(record.status)
        ACCESS_LOG.info(record.line())


def _record(scope: Scope) -> AccessRecord:
    """What is known of a request when it comes; its id is left in the scope's state."""
    state = scope.setdefault("state", {})
    state["request_id"] = request_id(scope["headers"])
    path = scope.get("raw_path") or scope["path"].encode()
    return AccessRecord(
        state["request_id"],
        _plain(scope["method"].encode(), SHOWN_METHOD),
        _plain(path, SHOWN_PATH),
        state=state,
    )


def _plain(text: bytes, length: int) -> str:
    """The beginning of what a client sent; what is not visible ASCII is escaped."""
    shown = text[:length].decode("ascii", "backslashreplace")
    shown = re.sub(r"[^\x21-\x7e]", lambda match: f"\\x{ord(match[0]):02x}", shown)
    return shown + ("..." if len(text) > length else "")
