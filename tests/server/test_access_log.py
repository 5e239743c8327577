"""Request ids and log lines."""

from __future__ import annotations

import logging
import os
import re
import threading
from contextlib import closing

import pytest

from creditdecoding.lm import LM
from creditdecoding.server.stderr_log import NonBlockingHandler
from tests.helpers.cli import run_credit
from tests.helpers.serving import (
    CHAT,
    PATIENCE,
    Served,
    Slow,
    error_of,
    messages,
    metric,
    serving,
    wait,
    with_model,
)
from tests.helpers.wire import (
    connect,
    head,
    post,
    post_head,
    send,
    send_until,
)

HALF = post_head(content_length="100") + b'{"a'


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "creditdecoding.server")
    return caplog


def test_request_ids(served: Served) -> None:
    def id_for(client_id: str) -> str:
        headers = {"x-request-id": client_id.encode("latin-1")}
        return served.client.get("/health", headers=headers).headers["x-request-id"]

    for valid in ("abc-1", "a" * 128, "Root=1-67891233-abc:def/1.2_3"):
        assert id_for(valid) == valid
    for invalid in ("", "a b", "a" * 129, "<script>", "a\tb", "\u00e9"):
        assert re.fullmatch(r"[0-9a-f]{32}", id_for(invalid))
    responses = [served.client.get(path) for path in ("/", "/health", "/nothing", CHAT)]
    responses += [
        served.chat(max_tokens=4),
        served.chat(max_tokens=4, stream=True),
        served.chat(temperature=-1),
    ]
    assert len({response.headers["x-request-id"] for response in responses}) == 7


def test_every_request_has_a_line_in_the_log(lm: LM, log: pytest.LogCaptureFixture) -> None:
    with serving(lm, api_key="sesame", max_body=1000) as served:
        key = {"authorization": "Bearer sesame", "x-request-id": "mine-1"}
        body = {"messages": messages("Say xyzzy"), "max_tokens": 8, "n": 2}
        tokens = 0
        for stream in (False, True):
            response = served.client.post(CHAT, json={**body, "stream": stream}, headers=key)
            assert response.status_code == 200
            tokens = tokens or response.json()["usage"]["completion_tokens"]
        served.client.get("/v1/models?api_key=sesame")
        served.client.get("/a%0ab\u00e9?x")
        send(served, head(host="evil.example"))
        send(served, post_head("/health", content_length="10000", expect="100-continue"))
        send(served, b"nonsense\r\n\r\n")
        wait(lambda: " - - 400 " in log.text)
    lines = [record.getMessage() for record in log.records]
    counts = rf"rows=2 tokens={tokens} passes=\d+"
    for pattern in (
        rf"mine-1 POST {CHAT} 200 \d+\.\d\d\ds {counts}",
        r"\w{32} GET /v1/models 401 \d+\.\d\d\ds",
        r"\w{32} GET /a%0ab%C3%A9 404 \d+\.\d\d\ds",
        r"\w{32} GET /health 421 \d+\.\d\d\ds",
        r"\w{32} POST /health 413 \d+\.\d\d\ds",
        r"\w{32} - - 400 \d+\.\d\d\ds",
    ):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    assert sum(line.startswith("mine-1 ") for line in lines) == 2
    assert not re.search("sesame|xyzzy|[\x00-\x1f\x7f-\uffff]", "".join(lines))


def test_clients_that_are_too_slow_are_in_the_log(lm: LM, log: pytest.LogCaptureFixture) -> None:
    with serving(lm, receive_timeout=0.05) as served:
        send_until(served, HALF, status=408)
        wait(lambda: f"POST {CHAT} 408 " in log.text)
        response = send_until(served, head(path="/metrics", connection="close"), status=200)
        assert metric(response.body.decode(), "http_responses_total", status="408") >= 1
    assert "Traceback" not in log.text


def test_clients_that_leave_are_in_the_log(lm: LM, log: pytest.LogCaptureFixture) -> None:
    with serving(with_model(lm, Slow(lm.model))) as served:
        body = {"messages": messages(), "stream": True, "max_tokens": 200, "decoder": "fixed"}
        with closing(connect(served)) as connection:
            connection.sendall(post(body))
            assert connection.recv(100)
        wait(lambda: "cut-off" in log.text)
    assert "Traceback" not in log.text


def test_a_long_path_is_cut(served: Served, log: pytest.LogCaptureFixture) -> None:
    served.client.get("/" + "x" * 5000)
    wait(lambda: "xxx... 404" in log.text)
    assert "x" * 200 not in log.text


def test_our_own_fault_is_in_the_log_with_its_id(
    lm: LM, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(lm) as served:
        monkeypatch.setattr(served.server.async_engine, "stats", lambda: 1 / 0)
        response = served.client.get("/metrics", headers={"x-request-id": "find-me"})
        assert error_of(response, 500)["type"] == "server_error"
        wait(lambda: "find-me GET /metrics 500" in log.text)
    assert log.text.count("Traceback (most recent call last)") == 1
    assert "find-me failed" in log.text


def test_the_log_can_be_switched_off() -> None:
    flags = run_credit(["serve", "--help-all"]).stdout
    assert "--no-access-log" in flags


def test_a_log_that_nobody_reads_does_not_hold_up_the_server() -> None:
    reading, writing = os.pipe()
    handler = NonBlockingHandler(writing)
    record = logging.makeLogRecord({"msg": "x" * 99})
    writer = threading.Thread(
        target=lambda: [handler.emit(record) for _ in range(3000)], daemon=True
    )
    writer.start()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    os.set_blocking(reading, False)
    written = os.read(reading, 10**6).decode().splitlines()
    assert 0 < len(written) < 3000
    assert all(line.endswith(" " + "x" * 99) for line in written)
    handler.emit(record)
    note, last = os.read(reading, 10**6).decode().splitlines()
    assert note == f"{3000 - len(written)} log lines were dropped: standard error was not read"
    assert last.endswith("x")
    os.close(reading)
    handler.emit(record)  # a pipe without an end
    os.close(writing)
