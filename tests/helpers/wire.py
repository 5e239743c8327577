"""HTTP by hand: bytes over a connection to a served model, for requests that no client library
would send.
"""

from __future__ import annotations

import json
import socket
from contextlib import closing, suppress
from typing import Any, NamedTuple

from tests.helpers.serving import CHAT, PATIENCE, PROMPTS, Served, messages, wait

QUESTION = {"messages": messages(PROMPTS[1]), "max_tokens": 8}


class RawResponse(NamedTuple):
    """A response as it came over the connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self, status: int) -> dict[str, Any]:
        """The error of a response with this status, which must be short, in OpenAI's shape, and
        have an id.
        """
        assert self.status == status, self
        assert self.headers["x-request-id"] and len(self.body) < 1000
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def connect(served: Served) -> socket.socket:
    """A connection; a server that never answers fails the test."""
    return socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)


def connect_slow_reader(port: int) -> socket.socket:
    """A connection that can take few bytes before its client reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect(("127.0.0.1", port))
    return connection


def head(method: str = "GET", path: str = "/health", **headers: str) -> bytes:
    """The head of a request; `host` is a header like others."""
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in {"host": "localhost", **headers}.items():
        lines.append(f"{name.replace('_', '-')}: {value}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def post_head(path: str = CHAT, **headers: str) -> bytes:
    """The head of a POST of JSON."""
    return head("POST", path, content_type="application/json", **headers)


def post(body: dict[str, Any], **headers: str) -> bytes:
    """A whole POST to /v1/chat/completions."""
    content = json.dumps(body).encode()
    return post_head(content_length=str(len(content)), **headers) + content


def read_all(connection: socket.socket) -> bytes:
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


def exchange(served: Served, *parts: bytes) -> bytes:
    """All that the server answers to these bytes until it closes."""
    with closing(connect(served)) as connection:
        with suppress(ConnectionError):  # it may have answered and closed before the last of them
            for part in parts:
                connection.sendall(part)
        return read_all(connection)


def send(served: Served, *parts: bytes) -> RawResponse:
    """The response to these bytes; the server must close the connection."""
    return parse(exchange(served, *parts))


def send_until(served: Served, *parts: bytes, status: int) -> RawResponse:
    """The response of this status from a server with tiny time limits, which this client may miss
    through no fault of the server: tries until it comes.
    """
    responses: list[bytes] = []

    def has_status() -> bool:
        responses.append(exchange(served, *parts))
        return bool(responses[-1]) and parse(responses[-1]).status == status

    wait(has_status)
    return parse(responses[-1])


def parse(response: bytes) -> RawResponse:
    """Status, headers and body of a response."""
    top, _, body = response.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return RawResponse(int(first.split()[1]), headers, body)
