"""The server as a process: uvicorn with signals and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import MissingExtraError
from creditdecoding.lm import LM
from creditdecoding.server.access_log import LOG
from creditdecoding.server.app import make_app
from creditdecoding.server.connection import ConnectionConfig
from creditdecoding.server.listener import Listener, raise_file_limit
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.stderr_log import NonBlockingHandler, write_line

try:
    import uvicorn
except ImportError as error:
    raise MissingExtraError("uvicorn", "server") from error

LINGER = 1.0  # seconds that a client has to read its last response


class Server(uvicorn.Server):
    """Ends answers before connections: after the grace the unfinished get an error, then
    connections are closed. `run([listener])` blocks.
    """

    def __init__(
        self, lm: LM, name: str, engine: EngineConfig, options: ServeConfig, http: HttpConfig
    ) -> None:
        self.access, self.async_engine = make_app(lm, name, engine, options, http)
        self.grace = http.grace
        self.exit_process: Callable[[], None] = lambda: None
        self._signalled = False
        super().__init__(ConnectionConfig(self.access, http))

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve at these sockets until `should_exit`."""
        for listener in sockets or ():
            if isinstance(listener, Listener):
                listener.count = self.access.count
        super().run(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn at the end."""
        closing = asyncio.ensure_future(self._close_all())
        await super().shutdown(sockets)
        closing.cancel()

    async def _close_all(self) -> None:
        """Give unfinished answers the grace, then close the connections that are left.

        If the engine is still in a long pass, nobody waits for it: `exit_process` is called.
        """
        closing = asyncio.ensure_future(self.async_engine.close(self.grace))
        await asyncio.wait({closing}, timeout=self.grace + LINGER)
        await asyncio.sleep(LINGER)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if not closing.done():
            self.exit_process()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal: the first begins the orderly end, the second exits at once."""
        if self._signalled:
            write_line("ended at once")
            os._exit(128 + sig)
        self._signalled = True
        self.should_exit = True
        write_line(
            f"ending: unfinished requests have {self.grace:g} s, a second signal ends at once"
        )


def serve(
    lm: LM,
    name: str,
    engine: EngineConfig,
    options: ServeConfig,
    http: HttpConfig,
    listener: Listener,
    ready: Callable[[], None],
) -> None:
    """Serve until a signal. `ready` is called just before."""
    handler = NonBlockingHandler()
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO if http.access_log else logging.WARNING)
    listener.limit = raise_file_limit(http.max_connections)
    server = Server(lm, name, engine, options, http)
    server.exit_process = lambda: os._exit(0)
    previous = {
        number: signal.signal(number, server.handle_exit)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        ready()
        server.run([listener])
    finally:
        for number, handle in previous.items():
            signal.signal(number, handle)
        listener.close()
        LOG.removeHandler(handler)
