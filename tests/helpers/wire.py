"""HTTP by hand: bytes over a connection to a served model, for requests that no client library
would send.
"""

from __future__ import annotations

import json
import socket
from contextlib import closing, suppress
from typing import Any

from tests.helpers.serving import Served, wait


def port_of(served: Served) -> int:
    return int(served.url.rsplit(":", 1)[1])


def dial(served: Served) -> socket.socket:
    """A connection; a server that never answers fails the test."""
    return socket.create_connection(("127.0.0.1", port_of(served)), timeout=30)


def head(method: str = "GET", path: str = "/health", **headers: str) -> bytes:
    """The head of a request; `host` is a header like others."""
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [
        f"{name.replace('_', '-')}: {value}"
        for name, value in {"host": "localhost", **headers}.items()
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def rest(connection: socket.socket) -> bytes:
    """All that the server still sends, until it closes."""
    parts = []
    while True:
        try:
            part = connection.recv(65_536)
        except ConnectionResetError:
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def tell(served: Served, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes; the server must close the connection."""
    return read(exchange(served, *parts))


def insist(served: Served, *parts: bytes, status: int) -> tuple[int, dict[str, str], bytes]:
    """The same from a server with tiny time limits, which this client may miss by no fault of the
    server: tries until it has this status.
    """
    answers: list[bytes] = []

    def is_answered() -> bool:
        answers.append(exchange(served, *parts))
        return bool(answers[-1]) and read(answers[-1])[0] == status

    wait(is_answered)
    return read(answers[-1])


def exchange(served: Served, *parts: bytes) -> bytes:
    """All that the server answers to these bytes until it closes."""
    with closing(dial(served)) as connection:
        with suppress(ConnectionError):  # it may have answered and closed before the last of them
            for part in parts:
                connection.sendall(part)
        return rest(connection)


def read(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a response."""
    top, _, body = response.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def complaint(response: tuple[int, dict[str, str], bytes], status: int) -> dict[str, Any]:
    """The error of a response in OpenAI's shape, which must be short and have an id."""
    assert response[0] == status, response
    assert response[1]["x-request-id"] and len(response[2]) < 1000
    error = json.loads(response[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
