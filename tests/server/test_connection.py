"""Time limits of connections, and how they end with the server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
import torch

from creditdecoding.lm import LM
from creditdecoding.server import serve as serve_module
from tests.helpers.serving import (
    PATIENCE,
    Served,
    Slow,
    Spy,
    serving,
    wait,
    with_model,
)
from tests.helpers.wire import (
    QUESTION,
    connect,
    connect_slow_reader,
    exchange,
    head,
    parse,
    post,
    post_head,
    read_all,
    send,
    send_until,
)

SHORT = 0.05  # seconds
HALVES = {
    "head": b"GET /health HT",
    "later line": b"GET /health HTTP/1.1\r\nhost: localhost\r\n",
    "no body": post_head(content_length="100"),
    "half a body": post_head(content_length="100") + b'{"a',
    "half a chunk": post_head(transfer_encoding="chunked") + b"10\r\n{",
}


@pytest.fixture(scope="module")
def impatient(lm: LM) -> Iterator[Served]:
    """A server with a short time to receive."""
    with serving(lm, receive_timeout=SHORT) as served:
        yield served


@pytest.mark.parametrize("half", HALVES)
def test_half_a_request_is_refused_in_time(half: str, impatient: Served) -> None:
    error = send_until(impatient, HALVES[half], status=408).error(408)
    assert error["code"] == "timeout"
    assert "0.05 s" in error["message"]


def test_silence_is_closed_without_a_word(impatient: Served) -> None:
    assert exchange(impatient) == b""


def test_a_byte_now_and_then_does_not_keep_a_connection(lm: LM) -> None:
    def dribble(served: Served) -> bytes:
        """Send a byte whenever the server is silent for a while, until it answers or closes."""
        with closing(connect(served)) as connection, suppress(ConnectionError):
            connection.settimeout(0.02)
            connection.sendall(post_head(content_length="100000"))
            while True:
                with suppress(TimeoutError):
                    return connection.recv(65_536)
                connection.sendall(b" ")
        return b""

    with serving(lm, receive_timeout=0.2) as served:
        wait(lambda: b" 408 " in dribble(served))


def test_the_second_request_of_a_connection_has_its_own_time(lm: LM) -> None:
    def two_requests(served: Served) -> bytes:
        with closing(connect(served)) as connection, suppress(ConnectionError):
            connection.sendall(head())
            first = b""
            while part := connection.recv(65_536):
                first += part
                if first.endswith(b'{"status":"ok"}'):
                    connection.sendall(b"GET /")
                    return read_all(connection)
        return b""  # late for the first one already

    with serving(lm, receive_timeout=0.1, keep_alive=600.0) as served:
        wait(lambda: b" 408 " in two_requests(served))


def test_an_idle_connection_is_closed(lm: LM) -> None:
    with serving(lm, keep_alive=SHORT) as served:
        assert send(served, head()).status == 200


def flood(connection: socket.socket) -> None:
    """Send requests, and read no answer, until the server closes."""

    def send_requests() -> None:
        with suppress(OSError):
            while True:
                connection.sendall(head(path="/") * 100)

    threading.Thread(target=send_requests, daemon=True).start()


def test_a_client_that_reads_nothing_is_let_go(lm: LM) -> None:
    with serving(lm, send_timeout=SHORT) as served:
        with closing(connect_slow_reader(served.port)) as connection:
            wait(lambda: len(served.connections) == 1)
            flood(connection)
            wait(lambda: not served.connections)
        assert served.text(max_tokens=8)


def test_a_long_answer_outlives_the_time_to_ask(lm: LM) -> None:
    with serving(with_model(lm, Slow(lm.model)), receive_timeout=SHORT) as served:
        request = post({**QUESTION, "decoder": "fixed"}, connection="close")
        answer = json.loads(send_until(served, request, status=200).body)
    assert answer["usage"]["nfe"] * Slow.seconds > SHORT


# The end of the server ------------------------------------------------------------


@pytest.fixture
def linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients have little time to read their last response."""
    monkeypatch.setattr(serve_module, "LINGER", SHORT)


@pytest.mark.parametrize("half", HALVES)
def test_half_a_request_does_not_hold_up_the_end(half: str, lm: LM) -> None:
    with serving(lm, grace=600.0, receive_timeout=600.0) as served:
        connection = connect(served)
        connection.sendall(HALVES[half])
        wait(lambda: any(client.in_request for client in list(served.connections)))
    with closing(connection):  # the server has ended
        assert parse(read_all(connection)).error(503)["code"] == "closing"


@pytest.mark.usefixtures("linger")
def test_a_client_that_reads_nothing_does_not_hold_up_the_end(lm: LM) -> None:
    with (
        serving(lm, grace=600.0, send_timeout=600.0) as served,
        closing(connect_slow_reader(served.port)) as connection,
    ):
        flood(connection)
        wait(lambda: any(client.flow.write_paused for client in list(served.connections)))
        served.server.should_exit = True
        wait(lambda: not served.connections)


class Stuck(Spy):
    """A model whose passes do not end before they may."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.is_in_pass = threading.Event()
        self.may_end = threading.Event()

    def after(self, tokens: Any, read: Any, logits: torch.Tensor) -> torch.Tensor:
        self.is_in_pass.set()
        assert self.may_end.wait(PATIENCE)
        return logits


@pytest.mark.usefixtures("linger")
def test_a_pass_that_lasts_does_not_hold_up_the_end(lm: LM) -> None:
    model = Stuck(lm.model)
    with serving(with_model(lm, model), grace=SHORT) as served:
        served.server.exit_process = model.may_end.set
        with closing(connect(served)) as connection:
            connection.sendall(post(QUESTION))
            assert model.is_in_pass.wait(PATIENCE)
            served.server.should_exit = True
            assert parse(read_all(connection)).error(503)["code"] == "closing"
