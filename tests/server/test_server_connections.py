"""Connections of the server: how long, how many, the key and the port before they come, signals and
the end.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM, load
from creditdecoding.server.api_key import with_key
from creditdecoding.server.listener import listen, raise_file_limit
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.serve import Server
from creditdecoding.server.stderr_log import NonBlockingHandler
from tests.helpers.cli import run_credit
from tests.helpers.serving import PROMPTS, Served, Slow, Spy, serving, wait, with_model
from tests.helpers.wire import complaint, dial, exchange, head, insist, port_of, read, rest, tell

torch.set_num_threads(1)
CHAT = "/v1/chat/completions"
QUESTION = json.dumps(
    {"messages": [{"role": "user", "content": PROMPTS[1]}], "max_tokens": 8}
).encode()
SHORT = 0.05  # seconds


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


@pytest.fixture(scope="module")
def served(lm: LM) -> Iterator[Served]:
    with serving(lm) as served:
        yield served


# Time limits
# ---------------------------------------------------------------------------------------------------------------------

HALVES = {
    "head": b"GET /health HT",
    "later line": b"GET /health HTTP/1.1\r\nhost: localhost\r\n",
    "no body": head("POST", CHAT, content_type="application/json", content_length="100"),
    "half a body": head("POST", CHAT, content_type="application/json", content_length="100")
    + b'{"a',
    "half a chunk": head("POST", CHAT, content_type="application/json", transfer_encoding="chunked")
    + b"10\r\n{",
}


@pytest.mark.parametrize("half", HALVES)
def test_half_a_request_is_refused_in_time(half: str, lm: LM) -> None:
    with serving(lm, receive_timeout=SHORT) as served:
        error = complaint(insist(served, HALVES[half], status=408), 408)
        assert error["code"] == "timeout" and "0.05 s" in error["message"]


def test_silence_is_closed_without_a_word(lm: LM) -> None:
    with serving(lm, receive_timeout=SHORT) as served:
        assert exchange(served) == b""


def test_a_byte_now_and_then_does_not_keep_a_connection(lm: LM) -> None:
    first = head("POST", CHAT, content_type="application/json", content_length="100000")

    def dribble(served: Served) -> bytes:
        """Send a byte whenever the server says nothing for a while, until it answers or closes."""
        with closing(dial(served)) as connection, suppress(ConnectionError):
            connection.settimeout(0.02)
            for part in itertools.chain([first], itertools.repeat(b" ")):
                connection.sendall(part)
                with suppress(TimeoutError):
                    return connection.recv(65_536)
        return b""

    with serving(lm, receive_timeout=0.3) as served:
        wait(lambda: b" 408 " in dribble(served))


def test_the_second_request_of_a_connection_has_its_own_time(lm: LM) -> None:
    def two_requests(served: Served) -> bytes:
        with closing(dial(served)) as connection, suppress(ConnectionError):
            connection.sendall(head())
            first = b""
            while part := connection.recv(65_536):
                first += part
                if first.endswith(b'{"status":"ok"}'):
                    connection.sendall(b"GET /")
                    return rest(connection)
        return b""  # late for the first one already

    with serving(lm, receive_timeout=0.1, keep_alive=600.0) as served:
        wait(lambda: b" 408 " in two_requests(served))


def test_an_idle_connection_is_closed(lm: LM) -> None:
    with serving(lm, keep_alive=SHORT) as served:
        assert tell(served, head())[0] == 200


def test_a_client_that_takes_nothing_is_let_go(lm: LM) -> None:
    """Thousands of answers are asked for and none is read, so that the server cannot send on."""
    with serving(lm, send_timeout=SHORT) as served, closing(socket.socket()) as connection:
        assert served.server is not None
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", port_of(served)))
        connections = served.server.server_state.connections
        wait(lambda: len(connections) == 1)
        threading.Thread(target=_flood, args=(connection,), daemon=True).start()
        wait(lambda: not connections)
        assert served.text(max_tokens=8)


def _flood(connection: socket.socket) -> None:
    try:
        while True:
            connection.sendall(head(path="/") * 100)
    except OSError:
        return  # the server has closed


def test_a_long_answer_outlives_the_time_to_ask(lm: LM) -> None:
    with serving(with_model(lm, Slow(lm.model)), receive_timeout=SHORT) as served:
        body = json.dumps({**json.loads(QUESTION), "decoder": "fixed"}).encode()
        request = (
            head(
                "POST",
                CHAT,
                content_type="application/json",
                content_length=str(len(body)),
                connection="close",
            )
            + body
        )
        answer = json.loads(insist(served, request, status=200)[2])
        assert answer["usage"]["nfe"] * Slow.seconds > SHORT


# How many
# ------------------------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_told_so(lm: LM, caplog: pytest.LogCaptureFixture) -> None:
    with serving(lm, max_connections=2) as served:
        assert served.server is not None
        connections = served.server.server_state.connections
        inside = [dial(served), dial(served)]
        wait(lambda: len(connections) == 2)
        for _ in range(5):
            response = tell(served)
            assert (
                complaint(response, 503)["code"] == "too_many_connections"
                and response[1]["retry-after"] == "1"
            )
        inside.pop().close()
        insist(served, head(connection="close"), status=200)
        assert served.metric("http_responses_total", status="503") >= 5
        inside.pop().close()
    assert caplog.text.count("too many connections") == 1


def test_a_process_without_files_lets_clients_go(
    lm: LM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    true_accept, refused = socket.socket.accept, []

    def accept(listening: socket.socket) -> Any:
        if len(refused) < 6:
            refused.append(len(refused))
            if len(refused) % 2:  # the second call is the one that lets go
                raise OSError(errno.EMFILE, "Too many open files")
        return true_accept(listening)

    with serving(lm) as served:
        monkeypatch.setattr(socket.socket, "accept", accept)
        for _ in range(3):
            with closing(dial(served)) as connection:
                assert rest(connection) == b""
        assert tell(served, head(connection="close"))[0] == 200
    assert [
        record.levelname
        for record in caplog.records
        if record.name in ("asyncio", "creditdecoding.server")
    ] == ["WARNING"]


def test_room_for_connections_follows_the_system() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert (
            raise_file_limit(1000) == 1000 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1000
        ), "the soft limit is raised"
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if most != resource.RLIM_INFINITY:
            assert raise_file_limit(10**9) < most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# The key
# -------------------------------------------------------------------------------------------------------------------------


def key_file(folder: Path, text: str | bytes, mode: int = 0o600) -> str:
    path = folder / "key"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return str(path)


def test_the_key_comes_from_an_option_a_file_or_the_environment(tmp_path: Path) -> None:
    warned: list[str] = []
    path, environment = key_file(tmp_path, "from-file\n"), {"CREDIT_API_KEY": "from-environment"}
    assert with_key(HttpConfig(), warned.append, {}).api_key is None
    assert with_key(HttpConfig(), warned.append, environment).api_key == "from-environment"
    assert (
        with_key(HttpConfig(api_key_file=path), warned.append, environment).api_key == "from-file"
    )
    assert (
        with_key(HttpConfig(api_key="from-option"), warned.append, environment).api_key
        == "from-option"
    )
    assert warned == []
    key_file(tmp_path, "from-file", 0o644)
    assert with_key(HttpConfig(api_key_file=path), warned.append, {}).api_key == "from-file"
    assert len(warned) == 1 and "chmod 600" in warned[0] and "from-file" not in warned[0]


@pytest.mark.parametrize(
    "content", ["", "\n", "two words", "two\nlines", "s\u00e9same", b"\xff\xfe", "x" * 5000]
)
def test_a_key_that_is_none_is_refused_and_not_repeated(
    content: str | bytes, tmp_path: Path
) -> None:
    result = run_credit(
        [
            "serve",
            "--port",
            "0",
            "--model",
            "/nowhere",
            "--api-key-file",
            key_file(tmp_path, content),
        ]
    )
    assert (
        result.status == 2
        and result.stderr.startswith("error: ")
        and result.stderr.count("\n") == 1
    )
    assert not content or str(content).strip() == "" or str(content) not in result.stderr


@pytest.mark.parametrize("value", ["", " ", "two words"])
def test_an_empty_key_in_the_environment_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDIT_API_KEY", value)
    result = run_credit(["serve", "--port", "0", "--model", "/nowhere"])
    assert (
        result.status == 2
        and "the environment variable CREDIT_API_KEY is not a key" in result.stderr
    )


@pytest.mark.parametrize("path", ["/nowhere/key", "/", "a\0b"])
def test_a_key_file_that_cannot_be_read(path: str) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        with_key(HttpConfig(api_key_file=path), lambda text: None, {})


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", None, True), ("0.0.0.0", "sesame", False), ("127.0.0.1", None, False)],
)
def test_an_open_server_without_a_key_is_warned_about(
    host: str, key: str | None, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDIT_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("CREDIT_API_KEY", key)
    result = run_credit(["serve", "--port", "0", "--host", host, "--model", "/nowhere"])
    assert ("warning: anyone who can reach this machine" in result.stderr) == warned, result.stderr


# Before the model loads
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "x" * 70, "a\u0000b", ""])
def test_where_it_cannot_listen_is_said_before_the_model_is_looked_for(
    host: str, served: Served
) -> None:
    result = run_credit(
        ["serve", "--model", "/nowhere", "--port", str(port_of(served)), "--host", host]
    )
    assert result.status == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(
        "error: cannot listen there (" if host else "error: host is empty"
    ), result.stderr


def test_the_port_is_taken_while_the_model_loads() -> None:
    with (
        closing(listen(HttpConfig(port=0))) as first,
        pytest.raises(OptionError, match="cannot listen there"),
    ):
        listen(HttpConfig(port=first.getsockname()[1]))


# The end
# -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
def test_half_a_request_does_not_hold_up_the_end(half: str, lm: LM) -> None:
    with serving(lm, grace=600.0, receive_timeout=600.0) as served:
        assert served.server is not None
        connection = dial(served)
        connection.sendall(HALVES[half])
        wait(lambda: _has_begun(served))
    with closing(connection):  # the server has ended
        error = complaint(read(rest(connection)), 503)
        assert error["code"] == "closing"


def _has_begun(served: Served) -> bool:
    assert served.server is not None
    return any(connection.in_request for connection in list(served.server.server_state.connections))


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(lm: LM) -> None:
    with (
        serving(lm, grace=600.0, send_timeout=600.0) as served,
        closing(socket.socket()) as connection,
    ):
        assert served.server is not None
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", port_of(served)))
        threading.Thread(target=_flood, args=(connection,), daemon=True).start()
        wait(
            lambda: any(
                client.flow.write_paused for client in list(served.server.server_state.connections)
            )
        )
        served.server.should_exit = True
        wait(lambda: not served.server.server_state.connections)


class Stuck(Spy):
    """A model whose passes do not end before they are told to."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.is_in_pass = threading.Event()
        self.may_end = threading.Event()

    def after(self, tokens: torch.Tensor, read: Any, logits: torch.Tensor) -> torch.Tensor:
        self.is_in_pass.set()
        assert self.may_end.wait(60)
        return logits


def test_a_pass_that_lasts_does_not_hold_up_the_end(lm: LM) -> None:
    model = Stuck(lm.model)
    with serving(with_model(lm, model), grace=SHORT) as served, closing(dial(served)) as connection:
        assert served.server is not None
        served.server.exit_process = model.may_end.set  # where the process would end
        connection.sendall(
            head("POST", CHAT, content_type="application/json", content_length=str(len(QUESTION)))
            + QUESTION
        )
        assert model.is_in_pass.wait(60)
        served.server.should_exit = True
        assert complaint(read(rest(connection)), 503)["code"] == "closing"


def test_a_log_that_nobody_reads_does_not_hold_up_the_server() -> None:
    reading, writing = os.pipe()
    handler = NonBlockingHandler(writing)
    record = logging.makeLogRecord({"msg": "x" * 99})
    writer = threading.Thread(
        target=lambda: [handler.emit(record) for _ in range(3000)], daemon=True
    )
    writer.start()
    writer.join(30)
    assert not writer.is_alive()
    os.set_blocking(reading, False)
    written = os.read(reading, 10**6).decode().splitlines()
    assert 0 < len(written) < 3000 and all(line.endswith(" " + "x" * 99) for line in written)
    handler.emit(record)
    lost, last = os.read(reading, 10**6).decode().splitlines()
    assert (
        lost == f"{3000 - len(written)} log lines were dropped: standard error was not read"
        and last.endswith("x")
    )
    os.close(reading)
    handler.emit(record)  # a pipe without an end
    os.close(writing)


LONG = {"decoder": "fixed:k=1", "max_tokens": 480, "ignore_eos": True, "n": 16, "temperature": 1.0}


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_what_signals_do(
    first: int,
    second: int,
    lm: LM,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    server = Server(lm, "pocket", EngineConfig(), ServeConfig(), HttpConfig(grace=7.0))
    server.handle_exit(first, None)
    assert server.should_exit and ended == []
    assert (
        capfd.readouterr().err
        == "ending: unfinished requests have 7 s, a second signal ends at once\n"
    )
    server.handle_exit(second, None)
    assert ended == [128 + second]


@pytest.mark.slow
def test_a_second_signal_ends_at_once() -> None:
    process, port = start("--grace", "600")
    try:
        body = json.dumps(
            {"messages": [{"role": "user", "content": "hi"}], **LONG, "stream": True}
        ).encode()
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
            connection.sendall(
                head("POST", CHAT, content_type="application/json", content_length=str(len(body)))
                + body
            )
            assert b"200 OK" in connection.recv(1000)
            process.send_signal(signal.SIGINT)
            assert (
                process.stderr is not None
                and "a second signal ends at once" in process.stderr.readline()
            )
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr.read() == "ended at once\n"
    finally:
        process.kill()


@pytest.mark.slow
def test_more_clients_than_files() -> None:
    process, port = start("--no-access-log", files=160)
    clients: list[socket.socket] = []
    try:
        for _ in range(300):
            clients.append(socket.create_connection(("127.0.0.1", port), timeout=60))
        told = clients[-1]
        assert b"503 Service Unavailable" in rest(told)
        for client in clients:
            client.close()

        def is_well() -> bool:
            with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
                connection.sendall(head(connection="close"))
                return b"200 OK" in rest(connection)

        wait(is_well)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said and len(said.splitlines()) == 2, said
    finally:
        process.kill()


def start(*flags: str, files: int | None = None) -> tuple[subprocess.Popen[str], int]:
    """`credit serve` on a free port, with so many files at most; its process and port."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "creditdecoding", "serve", "--port", "0", *flags]
    if files is not None:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    line = process.stderr.readline()
    if files is not None:
        assert "connections at a time instead of 4096" in line
        line = process.stderr.readline()
    assert " at http://127.0.0.1:" in line, line + process.stderr.read()
    return process, int(line.split("http://127.0.0.1:")[1].split()[0])
