"""The listening socket: its limit of connections, and errors before the model loads."""

from __future__ import annotations

import errno
import itertools
import resource
import select
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.server.listener import listen, raise_file_limit
from creditdecoding.server.options import HttpConfig
from tests.helpers.cli import run_credit
from tests.helpers.process import port_in, start_credit
from tests.helpers.serving import (
    PATIENCE,
    Served,
    metric,
    serving,
    wait,
)
from tests.helpers.wire import (
    connect,
    head,
    read_all,
    send,
    send_until,
)


def test_connections_beyond_the_limit_are_refused(lm: LM, caplog: pytest.LogCaptureFixture) -> None:
    with serving(lm, max_connections=2) as served:
        inside = [connect(served), connect(served)]
        wait(lambda: len(served.connections) == 2)
        for _ in range(5):
            response = send(served)
            assert response.error(503)["code"] == "too_many_connections"
            assert response.headers["retry-after"] == "1"
        inside.pop().close()
        response = send_until(served, head(path="/metrics", connection="close"), status=200)
        assert metric(response.body.decode(), "http_responses_total", status="503") >= 5
        inside.pop().close()
    assert caplog.text.count("too many connections") == 1


def test_a_process_without_files_lets_clients_go(
    lm: LM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    true_accept = socket.socket.accept
    calls = itertools.count()

    def accept(listening: socket.socket) -> Any:
        if not select.select([listening], [], [], 0)[0]:
            raise BlockingIOError  # some event loops look for further connections
        if next(calls) in (0, 2, 4):  # the calls after them are those that let go
            raise OSError(errno.EMFILE, "Too many open files")
        return true_accept(listening)

    with serving(lm) as served:
        monkeypatch.setattr(socket.socket, "accept", accept)
        for _ in range(3):
            with closing(connect(served)) as connection:
                assert read_all(connection) == b""
        assert send(served, head(connection="close")).status == 200
    loggers = ("asyncio", "creditdecoding.server")
    levels = [record.levelname for record in caplog.records if record.name in loggers]
    assert levels == ["WARNING"]


def test_the_file_limit_is_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert raise_file_limit(1000) == 1000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft > 1000
        if hard != resource.RLIM_INFINITY:
            assert raise_file_limit(10**9) < hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "x" * 70, "a\u0000b", ""])
def test_where_it_cannot_listen_is_said_before_the_model_loads(host: str, served: Served) -> None:
    command = ["serve", "--model", "/nowhere", "--port", str(served.port), "--host", host]
    result = run_credit(command)
    assert result.status == 2
    assert result.stderr.count("\n") == 1
    expected = "cannot listen there (" if host else "host is empty"
    assert result.stderr.startswith(f"error: {expected}"), result.stderr


def test_the_port_is_taken_while_the_model_loads() -> None:
    with closing(listen(HttpConfig(port=0))) as first:
        taken = HttpConfig(port=first.getsockname()[1])
        with pytest.raises(OptionError, match="cannot listen there"):
            listen(taken)


@pytest.mark.slow
def test_more_clients_than_files(tmp_path: Path) -> None:
    with start_credit(
        "serve --model pocket --port 0 --no-access-log", tmp_path / "log", files=160
    ) as process:
        port = port_in(process.wait_for(" at http://127.0.0.1:"))
        assert "connections at a time instead of 4096" in process.output()
        clients = [connect_to(port) for _ in range(300)]
        assert b"503 Service Unavailable" in read_all(clients[-1])
        for client in clients:
            client.close()

        def is_well() -> bool:
            with closing(connect_to(port)) as connection:
                connection.sendall(head(connection="close"))
                return b"200 OK" in read_all(connection)

        wait(is_well)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        output = process.output()
    assert "Traceback" not in output
    assert len(output.splitlines()) == 4, output


def connect_to(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
