"""The socket a server listens at, with a limit of connections.

It is bound before a model is loaded. Each connection is a file of the process; a process without
free files can neither answer nor refuse. So connections beyond the limit get status 503 and are
closed.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.server.access_log import LOG, new_id
from creditdecoding.server.error_responses import raw_error
from creditdecoding.server.options import HttpConfig

RESERVED_FILES = 64  # for the process itself
WARN_EVERY = 60.0  # seconds
BACKLOG = 2048


class Listener(socket.socket):
    """A listening socket with at most `limit` open connections; `count` gets the status of those
    that are refused.
    """

    def __init__(self, family: int, kind: int, protocol: int, limit: int) -> None:
        super().__init__(family, kind, protocol)
        self.limit = limit
        self.count: Callable[[int], None] = lambda status: None
        self.open_connections = 0
        self._spare_file = os.open(os.devnull, os.O_RDONLY)
        self._warned_at: float | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Refuses one beyond the limit and raises `ConnectionAbortedError`,
        which event loops skip.
        """
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._drop_next()
            raise ConnectionAbortedError("no free file for a connection") from error
        if self.open_connections >= self.limit:
            self._refuse(connection)
            raise ConnectionAbortedError("too many connections")
        self.open_connections += 1
        return _CountedConnection(connection, self._on_connection_closed), address

    def close(self) -> None:
        """Stop listening."""
        if self.fileno() != -1:
            os.close(self._spare_file)
        super().close()

    def _on_connection_closed(self) -> None:
        self.open_connections -= 1

    def _refuse(self, connection: socket.socket) -> None:
        """Send status 503 and close, without waiting for the client."""
        self._warn()
        self.count(503)
        message = f"too many connections; allowed: {self.limit}. Come back later."
        connection.setblocking(False)
        with suppress(OSError):
            connection.recv(65_536)  # closing with unread data may discard the response
        with suppress(OSError):
            connection.send(raw_error(503, message, "too_many_connections", new_id()))
            connection.shutdown(socket.SHUT_WR)
        connection.close()

    def _drop_next(self) -> None:
        """Accept and close the next connection, in the place of the spare file."""
        self._warn()
        os.close(self._spare_file)
        with suppress(OSError):
            connection, _ = super().accept()
            connection.close()
        self._spare_file = os.open(os.devnull, os.O_RDONLY)

    def _warn(self) -> None:
        """Log that connections are refused, at most once a minute."""
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at > WARN_EVERY:
            self._warned_at = now
            LOG.warning(
                "warning: too many connections (%d open): more are refused with status 503",
                self.open_connections,
            )


class _CountedConnection(socket.socket):
    """A connection that reports when it is closed."""

    def __init__(self, connection: socket.socket, on_close: Callable[[], None]) -> None:
        super().__init__(fileno=connection.detach())
        self._on_close = on_close

    def close(self) -> None:
        if self.fileno() != -1:
            self._on_close()
        super().close()


def listen(http: HttpConfig) -> Listener:
    """A socket that listens at `host` and `port`. Raises `OptionError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = Listener(family, kind, protocol, http.max_connections)
    except (OSError, ValueError) as error:
        raise _cannot_listen(http, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(http, error) from error
    return listener


def _cannot_listen(http: HttpConfig, error: Exception) -> OptionError:
    reason = getattr(error, "strerror", None) or str(error)
    return OptionError(
        f"cannot listen there ({reason})",
        given=f"{http.host}:{http.port}",
        hint="Choose another --port or --host.",
    )


def url_of(listening: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_file_limit(connections: int) -> int:
    """Raise the process's limit of open files for `connections`; returns how many it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    other_files = len(os.listdir("/dev/fd")) + RESERVED_FILES
    needed = connections + other_files
    if soft != resource.RLIM_INFINITY and soft < needed:
        target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, target), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - other_files))
