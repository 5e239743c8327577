"""Request ids, and a log line for every request: id, method, path, status, seconds, and what was
decoded.

This is the outermost ASGI middleware, so that refused requests have ids and lines too. Queries,
headers and bodies are never logged: they may hold keys and prompts.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("creditdecoding.server")
ACCESS_LOG = LOG.getChild("access")
VALID_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
SHOWN_METHOD = 20
SHOWN_PATH = 200


def new_id() -> str:
    """A random request id."""
    return uuid.uuid4().hex


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The X-Request-Id that a request brings, if it is short and plain; else a new one."""
    value = headers.get(b"x-request-id", b"")
    return value.decode() if VALID_ID.fullmatch(value) else new_id()


@dataclass
class AccessRecord:
    """One request and its response. `state` is the ASGI scope's: the application leaves `answers`
    there, the connection `refused_with` if it responded in the application's place.
    """

    request_id: str = field(default_factory=new_id)
    method: str = "-"
    path: str = "-"
    status: int | None = None
    complete: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    started_at: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """The record as a log line, free of control characters."""
        status = "-" if self.status is None else str(self.status)
        seconds = f"{time.monotonic() - self.started_at:.3f}s"
        parts = [self.request_id, self.method, self.path, status, seconds]
        answers = self.state.get("answers", ())
        if answers:
            tokens = sum(answer.token_count for answer in answers)
            passes = sum(answer.nfe for answer in answers)
            parts.append(f"rows={len(answers)} tokens={tokens} passes={passes}")
        if not self.complete:
            parts.append("cut-off")
        return " ".join(parts)


class AccessLog:
    """ASGI middleware that logs every request; `count` gets the status of every response."""

    def __init__(self, app: ASGIApp, count: Callable[[int], None]) -> None:
        self._app = app
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _record(scope)

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                id_header = (b"x-request-id", record.request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), id_header]}
            else:
                record.complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except Exception:
            LOG.exception("%s failed", record.request_id)
        finally:
            self.add(record)

    def add(self, record: AccessRecord) -> None:
        """Count a response and log its request."""
        refused_with = record.state.get("refused_with")
        if refused_with is not None:
            record.status = refused_with
            record.complete = True
        if record.status is not None:
            self.count(record.status)
        ACCESS_LOG.info(record.line())


def _record(scope: Scope) -> AccessRecord:
    """A record for a new request; its id is left in the scope's state."""
    state = scope.setdefault("state", {})
    state["request_id"] = request_id(dict(scope["headers"]))
    return AccessRecord(
        request_id=state["request_id"],
        method=_escape(scope["method"].encode(), SHOWN_METHOD),
        path=_escape(scope.get("raw_path") or scope["path"].encode(), SHOWN_PATH),
        state=state,
    )


def _escape(text: bytes, length: int) -> str:
    """The beginning of a client's text; everything but visible ASCII is escaped."""
    beginning = text[:length].decode("ascii", "backslashreplace")
    escaped = re.sub(r"[^\x21-\x7e]", lambda match: f"\\x{ord(match[0]):02x}", beginning)
    return escaped + ("..." if len(text) > length else "")
