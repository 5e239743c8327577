"""Signals and the end of the process."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.lm import LM
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.serve import Server
from tests.helpers.process import port_in, start_credit
from tests.helpers.serving import (
    CHAT,
    PATIENCE,
    PROMPTS,
    messages,
    metric,
    wait,
)
from tests.helpers.wire import (
    post,
)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_what_signals_do(
    first: int,
    second: int,
    lm: LM,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    server = Server(lm, "pocket", EngineConfig(), ServeConfig(), HttpConfig(grace=7.0))
    server.handle_exit(first, None)
    assert server.should_exit
    assert exits == []
    message = "ending: unfinished requests have 7 s, a second signal ends at once\n"
    assert capfd.readouterr().err == message
    server.handle_exit(second, None)
    assert exits == [128 + second]


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    long = {"messages": messages(), "decoder": "fixed", "max_tokens": 480, "ignore_eos": True}
    with start_credit("serve --model pocket --port 0 --grace 600", tmp_path / "log") as process:
        port = port_in(process.wait_for(" at http://127.0.0.1:"))
        with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as connection:
            connection.sendall(post({**long, "n": 64, "stream": True}))
            assert b"200 OK" in connection.recv(1000)
            process.send_signal(signal.SIGINT)
            process.wait_for("a second signal ends at once")
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
        assert process.output().splitlines()[-1] == "ended at once"


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "length"), [(PATIENCE, 16), (0.1, 480)])
def test_sigterm_answers_or_tells_every_client(grace: float, length: int, tmp_path: Path) -> None:
    """Answers of a few passes end within the grace; thousands of passes do not."""
    command = f"serve --model pocket --port 0 --batch-size 4 --grace {grace}"
    fields = {"decoder": "fixed", "max_tokens": length, "ignore_eos": True}
    with ThreadPoolExecutor(8) as pool, start_credit(command, tmp_path / "log") as process:
        url = f"http://127.0.0.1:{port_in(process.wait_for(' at http://127.0.0.1:'))}"

        def ask(index: int) -> httpx.Response:
            prompt = messages(PROMPTS[index % len(PROMPTS)])
            body = {"messages": prompt, "stream": index % 2 == 0, **fields}
            return httpx.post(url + CHAT, json=body, timeout=PATIENCE)

        def admitted() -> float:
            metrics = httpx.get(f"{url}/metrics", timeout=PATIENCE).text
            return metric(metrics, "request_prompt_tokens_count")

        futures = [pool.submit(ask, index) for index in range(8)]
        wait(lambda: admitted() == 8)
        process.send_signal(signal.SIGTERM)
        responses = [future.result() for future in futures]
        assert process.wait() == 0
        assert "Traceback" not in process.output()
    refused = [response for response in responses if "shutting down" in response.text]
    for response in responses:
        if response not in refused:
            assert response.status_code == 200
            assert "[DONE]" in response.text or response.json()["choices"][0]["finish_reason"]
    assert bool(refused) == (grace < PATIENCE)
