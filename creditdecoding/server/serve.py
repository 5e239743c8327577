"""The server as a process: connections with time limits, signals, and an end in which every request
is answered or told.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import MissingExtraError
from creditdecoding.lm import LM
from creditdecoding.server.access_log import LOG, AccessLog, AccessRecord, new_id
from creditdecoding.server.app import make_app
from creditdecoding.server.asgi import raw_error
from creditdecoding.server.async_engine import SHUTTING_DOWN
from creditdecoding.server.listener import Listener, raise_file_limit
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.stderr_log import NonBlockingHandler, write_line

try:
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingExtraError("uvicorn", "server") from error

LINGER = 1.0  # seconds that a client has to read what it was told at the end
LONGEST_HEAD = 16 * 1024  # bytes
CRUMBS = 256  # pieces of a body
CRUMB = 64  # bytes


class Server(uvicorn.Server):
    """Ends answers before connections: at the end of the grace those left are told, then
    connections are closed. `run([listening])` blocks.
    """

    def __init__(
        self, lm: LM, name: str, engine: EngineConfig, options: ServeConfig, http: HttpConfig
    ) -> None:
        self.access, self.service = make_app(lm, name, engine, options, http)
        self.grace = http.grace
        self.leave: Callable[[], None] = lambda: None
        self._signalled = False
        super().__init__(_Settings(self.access, http))

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve at these sockets until told to end."""
        for door in sockets or ():
            if isinstance(door, Listener):
                door.count = self.access.count
        super().run(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn calls when it is told to end."""
        ending = asyncio.ensure_future(self._end())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end(self) -> None:
        """Let answers under way finish within the grace, then close the connections that are left.

        An engine that is in a long pass even then is not waited for: everybody has been told, and
        `leave` is called.
        """
        closing = asyncio.ensure_future(self.service.close(self.grace))
        await asyncio.wait({closing}, timeout=self.grace + LINGER)
        await asyncio.sleep(LINGER)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if not closing.done():
            self.leave()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does: the first begins the end, the second is the end."""
        if self._signalled:
            write_line("ended at once")
            os._exit(128 + sig)
        self._signalled = True
        self.should_exit = True
        write_line(
            f"ending: requests under way have {self.grace:g} s, a second signal ends at once"
        )


class _Settings(uvicorn.Config):
    """uvicorn's settings, and ours of a connection."""

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
    """One client's connection, closed when a request does not arrive in time or an answer is not
    taken in time.
    """

    def __init__(self, config: uvicorn.Config, *rest: Any, **named: Any) -> None:
        super().__init__(config, *rest, **named)
        assert isinstance(config, _Settings)
        self.conn = _Parser()
        self._limits = config.limits
        self._access = config.access
        self.timeout_keep_alive = config.limits.keep_alive  # type: ignore[assignment]
        self._receiving = _Deadline(config.limits.receive_timeout, self._too_slow)
        self._sending = _Deadline(config.limits.send_timeout, self._give_up)
        self._begun = False  # a request: some of it has arrived, but not all
        self._since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its first request must come in time."""
        transport.set_write_buffer_limits(
            high=0
        )  # pause_writing tells of all that is not taken at once
        super().connection_made(transport)
        self._receiving.start()

    def data_received(self, data: bytes) -> None:
        """Some of a request; the time it has runs from its first byte, or from the connection's
        beginning, until it is whole.
        """
        if not self._begun:
            self._begun = True
            self._since = time.monotonic()
        self._receiving.start()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._begun = False
            self._receiving.stop()

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        self._sending.start()

    def resume_writing(self) -> None:
        """The client has taken everything."""
        super().resume_writing()
        self._sending.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._receiving.stop()
        self._sending.stop()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends: a request that has not arrived yet is refused, one that has is answered."""
        if self._begun:
            self._refuse(503, f"{SHUTTING_DOWN}. Try another one.", "closing")
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What the client sends is no HTTP."""
        what = "the request is not HTTP/1.1, its head is above 16 KiB, or its body comes in tiny chunks"
        self._refuse(400, f"{what}. See /openapi.json for what there is.", None)

    def _too_slow(self) -> None:
        if self._begun:
            message = f"the request did not arrive in time; allowed: {self._limits.receive_timeout:g} s. Send it faster."
            self._refuse(408, message, "timeout")
        else:
            self.transport.close()  # it has asked for nothing

    def _give_up(self) -> None:
        self.transport.abort()

    def _refuse(self, status: int, message: str, code: str | None) -> None:
        """Answer in the application's place and close; where it has answered already, close alone."""
        cycle = self.cycle
        in_body = self.conn.their_state is h11.SEND_BODY
        is_known = cycle is not None and (in_body or not cycle.response_complete)
        if is_known and cycle.response_started:
            self.transport.abort()
            return
        number = self._take_over(status) if is_known else self._note(status)
        self.transport.write(raw_error(status, message, code, number))
        self.transport.close()

    def _take_over(self, status: int) -> str:
        """Tell the application, which waits for a body, that the client is gone; gives the
        request's id.
        """
        state = self.scope["state"]
        state["told"] = status
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return state.get("request_id") or new_id()

    def _note(self, status: int) -> str:
        """Log a request of which no application knows; gives an id for it."""
        record = AccessRecord(status=status, whole=True, begun=self._since)
        self._access.note(record)
        return record.request_id


class _Parser(h11.Connection):
    """h11's parser, which refuses bodies in crumbs: each costs as much time of the event loop as a
    large piece.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, LONGEST_HEAD)
        self._pieces = 0
        self._bytes = 0

    def receive_data(self, data: bytes) -> None:
        """Take what has come at a time."""
        self._pieces = 0
        self._bytes = 0
        super().receive_data(data)

    def next_event(self) -> Any:
        """What comes next in it."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > CRUMBS and self._bytes < self._pieces * CRUMB:
                raise h11.RemoteProtocolError("the chunks are too small")
        return event


class _Deadline:
    """Something that happens unless it is stopped in time."""

    def __init__(self, seconds: float, act: Callable[[], None]) -> None:
        self._seconds = seconds
        self._act = act
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Let the time run, if it does not yet."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._act)

    def stop(self) -> None:
        """It is no longer needed."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None


def serve(
    lm: LM,
    name: str,
    engine: EngineConfig,
    options: ServeConfig,
    http: HttpConfig,
    listening: Listener,
    ready: Callable[[], None],
) -> None:
    """Serve until a signal says otherwise. `ready` is called just before."""
    handler = NonBlockingHandler()
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO if http.access_log else logging.WARNING)
    listening.limit = raise_file_limit(http.max_connections)
    server = Server(lm, name, engine, options, http)
    server.leave = lambda: os._exit(0)
    before = {
        number: signal.signal(number, server.handle_exit)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        ready()
        server.run([listening])
    finally:
        for number, handle in before.items():
            signal.signal(number, handle)
        listening.close()
        LOG.removeHandler(handler)
