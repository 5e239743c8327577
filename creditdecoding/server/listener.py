"""The socket a server listens at: bound before a model is loaded, and never through it more
connections than there is room for.

Each connection is a file of the process. A process that has none left can neither answer nor
refuse, and its event loop complains for
every client that knocks; so those beyond a limit are told to come later and let go. Leaves to
others: what comes over a connection (run.py).
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
from creditdecoding.server.asgi import raw_error
from creditdecoding.server.options import HttpConfig

RESERVE = 64  # files that the process may need beside connections
MINUTE = 60.0


class Listener(socket.socket):
    """A listening socket that lets in `limit` connections at a time; `count` is told the status
    that others get.
    """

    def __init__(self, family: int, kind: int, number: int, limit: int) -> None:
        super().__init__(family, kind, number)
        self.limit = limit
        self.count: Callable[[int], None] = lambda status: None
        self.inside = 0
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self._noted: float | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Turns away one that is too many and raises `ConnectionAbortedError`,
        which event loops skip.
        """
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._drop()
            raise ConnectionAbortedError("no file is left for it") from error
        if self.inside >= self.limit:
            self._turn_away(connection)
            raise ConnectionAbortedError("too many connections")
        self.inside += 1
        return _Guest(connection, self._left), address

    def close(self) -> None:
        """Listen no more."""
        if self.fileno() != -1:
            os.close(self._spare)
        super().close()

    def _left(self) -> None:
        self.inside -= 1

    def _turn_away(self, connection: socket.socket) -> None:
        """Say that there are too many, without waiting for anything."""
        self._note()
        self.count(503)
        message = f"too many connections; allowed: {self.limit}. Come back later."
        connection.setblocking(False)
        with suppress(OSError):
            connection.recv(
                65_536
            )  # a client whose words lie unread at the close may not see the answer
        with suppress(OSError):
            connection.send(raw_error(503, message, "too_many_connections", new_id()))
            connection.shutdown(socket.SHUT_WR)
        connection.close()

    def _drop(self) -> None:
        """Let go of the next connection although no file is left: the spare one makes room."""
        self._note()
        os.close(self._spare)
        with suppress(OSError):
            connection, _ = super().accept()
            connection.close()
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def _note(self) -> None:
        """Write to the log that clients are turned away, once a minute at most."""
        now = time.monotonic()
        if self._noted is None or now - self._noted > MINUTE:
            self._noted = now
            LOG.warning(
                "warning: too many connections (%d open): more are turned away with status 503",
                self.inside,
            )


class _Guest(socket.socket):
    """A connection that says when it is closed."""

    def __init__(self, connection: socket.socket, left: Callable[[], None]) -> None:
        super().__init__(fileno=connection.detach())
        self._left = left

    def close(self) -> None:
        if self.fileno() != -1:
            self._left()
        super().close()


def listen(http: HttpConfig) -> Listener:
    """A socket that listens where the options say. Raises `OptionError`."""
    try:
        family, kind, number, _, where = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        door = Listener(family, kind, number, http.max_connections)
    except (OSError, ValueError) as error:
        raise _cannot_listen(http, error) from error
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(where)
        door.listen(2048)
    except OSError as error:
        door.close()
        raise _cannot_listen(http, error) from error
    return door


def _cannot_listen(http: HttpConfig, error: Exception) -> OptionError:
    reason = getattr(error, "strerror", None) or str(error)
    return OptionError(
        f"cannot listen there ({reason})",
        given=f"{http.host}:{http.port}",
        hint="Choose another --port or --host.",
    )


def url_of(listening: socket.socket) -> str:
    """Where a socket listens, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_file_limit(connections: int) -> int:
    """Let this process open files for so many connections; gives how many it can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(os.listdir("/dev/fd")) + RESERVE
    wanted = connections + taken
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - taken))
