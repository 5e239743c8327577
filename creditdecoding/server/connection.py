"""One client's HTTP connection: uvicorn's, with time limits for the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from creditdecoding.errors import MissingExtraError
from creditdecoding.server.access_log import AccessLog, AccessRecord, new_id
from creditdecoding.server.error_responses import ShuttingDownError, raw_error
from creditdecoding.server.options import HttpConfig

try:
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingExtraError("uvicorn", "server") from error

MAX_HEAD = 16 * 1024  # bytes
MAX_SMALL_CHUNKS = 256
SMALL_CHUNK = 64  # bytes


class ConnectionConfig(uvicorn.Config):
    """uvicorn's settings, with the access log and the limits that connections need."""

    def __init__(self, access: AccessLog, http: HttpConfig) -> None:
        super().__init__(
            access,
            http=Connection,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self.access = access
        self.limits = http


class Connection(H11Protocol):
    """Closes when a request does not arrive in time, or a response is not read in time."""

    def __init__(self, config: ConnectionConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.conn = _Parser()
        self._limits = config.limits
        self._access = config.access
        self.timeout_keep_alive = config.limits.keep_alive  # type: ignore[assignment]
        self._receiving = _Timeout(config.limits.receive_timeout, self._on_receive_timeout)
        self._sending = _Timeout(config.limits.send_timeout, self._abort)
        self.in_request = False  # some of a request has arrived, but not all
        self._request_started_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request must arrive in time."""
        transport.set_write_buffer_limits(high=0)  # pause_writing is called for any unread byte
        super().connection_made(transport)
        self._receiving.start()

    def data_received(self, data: bytes) -> None:
        """Part of a request. Its time runs from its first byte, or from the beginning of the
        connection, until it is complete.
        """
        if not self.in_request:
            self.in_request = True
            self._request_started_at = time.monotonic()
        self._receiving.start()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.in_request = False
            self._receiving.stop()

    def pause_writing(self) -> None:
        """The client has not read everything."""
        super().pause_writing()
        self._sending.start()

    def resume_writing(self) -> None:
        """The client has read everything."""
        super().resume_writing()
        self._sending.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._receiving.stop()
        self._sending.stop()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: a complete request is answered, an incomplete one refused."""
        if self.in_request:
            self._refuse(503, str(ShuttingDownError()), "closing")
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """The client does not send HTTP."""
        message = (
            "the request is not HTTP/1.1, its head is above 16 KiB, or its body comes in tiny "
            "chunks. See /openapi.json for the endpoints."
        )
        self._refuse(400, message, None)

    def _on_receive_timeout(self) -> None:
        if self.in_request:
            limit = f"{self._limits.receive_timeout:g} s"
            message = f"the request did not arrive in time; allowed: {limit}. Send it faster."
            self._refuse(408, message, "timeout")
        else:
            self.transport.close()

    def _abort(self) -> None:
        self.transport.abort()

    def _refuse(self, status: int, message: str, code: str | None) -> None:
        """Respond in the application's place and close; abort if it has begun its response."""
        cycle = self.cycle
        in_body = self.conn.their_state is h11.SEND_BODY
        in_application = cycle is not None and (in_body or not cycle.response_complete)
        if in_application and cycle.response_started:
            self._abort()
            return
        request_id = self._take_over(status) if in_application else self._log(status)
        self.transport.write(raw_error(status, message, code, request_id))
        self.transport.close()

    def _take_over(self, status: int) -> str:
        """End the application's wait for the body as if the client were gone; returns the
        request's id.
        """
        state = self.scope["state"]
        state["refused_with"] = status
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return state.get("request_id") or new_id()

    def _log(self, status: int) -> str:
        """Log a request that never reached the application; returns its new id."""
        record = AccessRecord(status=status, complete=True, started_at=self._request_started_at)
        self._access.add(record)
        return record.request_id


class _Parser(h11.Connection):
    """h11's parser; refuses bodies in tiny chunks, each of which costs as much as a large one."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD)
        self._chunks = 0
        self._bytes = 0

    def receive_data(self, data: bytes) -> None:
        """Take the data of one read."""
        self._chunks = 0
        self._bytes = 0
        super().receive_data(data)

    def next_event(self) -> Any:
        """The next event in the data."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += 1
            self._bytes += len(event.data)
            if self._chunks > MAX_SMALL_CHUNKS and self._bytes < self._chunks * SMALL_CHUNK:
                raise h11.RemoteProtocolError("the chunks are too small")
        return event


class _Timeout:
    """Calls a function unless it is stopped in time."""

    def __init__(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, if not started."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds, self._on_timeout)

    def stop(self) -> None:
        """Stop and reset."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
