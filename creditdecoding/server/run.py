"""The server as a process: a socket, signals, and an end in which every request is answered or told.

Leaves to others: what is served (app.py). The only file that knows uvicorn.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from creditdecoding.config import EngineConfig, HttpConfig, ServeConfig
from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.lm import LM
from creditdecoding.server.app import make_app

try:
    import uvicorn
except ImportError as error:
    raise MissingExtraError("uvicorn", "server") from error

FILES = 65_536
LINGER = 2  # seconds that a client has to read what it was told at the end


class Server(uvicorn.Server):
    """Ends answers before connections: at the end of the grace those left are told, then uvicorn closes. `run([listening])` blocks."""

    def __init__(self, lm: LM, name: str, engine: EngineConfig, options: ServeConfig, http: HttpConfig) -> None:
        app, self.service = make_app(lm, name, engine, options, http)
        self.grace = http.grace
        end = int(http.grace) + LINGER
        super().__init__(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=end, lifespan="on", server_header=False)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn calls when it is told to end."""
        closing = asyncio.ensure_future(self.service.close(self.grace))
        await super().shutdown(sockets)
        await closing


def serve(lm: LM, name: str, engine: EngineConfig, options: ServeConfig, http: HttpConfig, ready: Callable[[str], None]) -> None:
    """Serve until a signal says otherwise; `ready` is called with the address. Raises `OptionError` when it cannot listen there."""
    _many_connections()
    server, listening = Server(lm, name, engine, options, http), listen(http)
    ready(address(listening))
    before = signal.signal(signal.SIGTERM, _leave)  # uvicorn raises the signal again once it has ended well
    try:
        with suppress(KeyboardInterrupt):
            server.run([listening])
    finally:
        signal.signal(signal.SIGTERM, before)
        listening.close()


def address(listening: socket.socket) -> str:
    """Where a socket listens, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(http: HttpConfig) -> socket.socket:
    """A socket that listens where the options say. Raises `OptionError`."""
    try:
        family, kind, number, _, where = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, number)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except OSError as error:
        raise OptionError(
            f"cannot listen there ({error.strerror})", given=f"{http.host}:{http.port}", hint="Choose another --port or --host."
        ) from error
    listening.listen(2048)
    return listening


def _many_connections() -> None:
    """As many open connections as the system allows: each is a file, of which a process may often have no more than 1024 unless it asks."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(most, FILES)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)
