"""Bad requests, vanished clients, sick models, the end of the process: each request is answered or
shed, its neighbours notice nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from creditdecoding.cli import main
from creditdecoding.decoding.engine import Engine
from creditdecoding.lm import LM, load
from creditdecoding.server import app as app_module
from creditdecoding.server.fields import REFUSED
from tests.helpers.serving import PROMPTS, Served, Sick, Slow, paused, serving, wait, with_model

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


@pytest.fixture(scope="module")
def served(lm: LM) -> Iterator[Served]:
    with serving(lm, max_body=100_000) as served:
        yield served


def complaint(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a response, in OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (
        set(error) == {"message", "type", "param", "code"}
        and "\n" not in error["message"]
        and isinstance(error["type"], str)
    )
    return error


def post(served: Served, body: bytes, path: str = CHAT, **headers: str) -> httpx.Response:
    return served.client.post(
        path, content=body, headers={"content-type": "application/json", **headers}
    )


# What is refused
# ---------------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "n": 2,
    "top_logprobs": 2,
    "response_format": {"type": "json_schema", "json_schema": {}},
    "store": True,
    "echo": True,
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_served_is_refused_by_name(name: str, served: Served) -> None:
    error = complaint(served.chat(**{name: VALUES.get(name, "something")}))
    assert f"{name} is not supported" in error["message"] and error["param"] == name
    for neutral in (None, *REFUSED[name][0]):
        assert served.chat(max_tokens=1, **{name: neutral}).status_code == 200, neutral


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tempreature": 1}, "Did you mean 'temperature'", "tempreature"),
    ({"temperature": "hot"}, "valid number", "temperature"),
    ({"temperature": -1}, "greater than or equal to 0", "temperature"),
    ({"temperature": True}, "valid number", "temperature"),
    ({"top_p": 0}, "greater than 0", "top_p"),
    ({"top_k": 10**40}, "less than or equal", "top_k"),
    ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": 10**9}, "less than or equal", "max_tokens"),
    ({"max_tokens": 3.5}, "valid integer", "max_tokens"),
    ({"max_tokens": -2}, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "contradict each other", "max_tokens"),
    ({"max_tokens": 512}, "512 together", "max_tokens"),
    ({"max_completion_tokens": 511}, "512 together", "messages"),
    ({"top_k": -2}, "greater than or equal to 1", "top_k"),
    ({"ignore_eos": True, "logits_eos_inf": False}, "contradict each other", "ignore_eos"),
    ({"seed": -1}, "greater than or equal to 0", "seed"),
    ({"n": 65}, "less than or equal to 64", "n"),
    ({"stop": [""]}, "must not be empty", "stop"),
    ({"stop": ["x"] * 17}, "at most 16", "stop"),
    ({"decoder": "nonsense"}, "unknown decoder", "decoder"),
    ({"decoder": "credit:alpha=-3"}, "alpha", "decoder"),
    ({"decoder": {"name": "credit", "alhpa": 1}}, "Did you mean 'alpha'", "decoder"),
    ({"decoder": {"alpha": 1}}, "not a decoder", "decoder"),
    ({"cache": "magic"}, "magic", "cache"),
    ({"cache": "block"}, "block", "cache"),
    ({"messages": []}, "at least 1", "messages"),
    ({"messages": "hi"}, "valid list", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "'system'", "messages.0.role"),
    ({"messages": [{"role": "user", "content": " "}]}, "the prompt is empty", "messages"),
    ({"messages": [{"role": "user", "content": "x " * 5000}]}, "cannot fit", "messages"),
    ({"messages": [{"role": "user", "content": "x " * 500}]}, "do not fit", "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "only text is supported",
        "messages.0.content.0.image_url",
    ),
    ({"messages": [{"role": "user"}]}, "needs content", "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": "x", "weight": 1}]},
        "unknown field",
        "messages.0.weight",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        "tools are not supported",
        "messages.0.tool_calls",
    ),
    ({"draft": True}, "needs stream", "draft"),
    ({"stream_options": {}}, "needs stream", "stream_options"),
    ({"stream": True, "stream_options": {"include": 1}}, "include", "stream_options.include"),
    ({"logprobs": 3}, "valid boolean", "logprobs"),
]


@pytest.mark.parametrize(
    ("fields", "said", "param"), BAD, ids=[json.dumps(fields)[:40] for fields, _, _ in BAD]
)
def test_bad_fields(fields: dict[str, Any], said: str, param: str, served: Served) -> None:
    error = complaint(
        served.client.post(CHAT, json={"messages": [{"role": "user", "content": "hi"}], **fields})
    )
    assert said in error["message"] and error["param"] == param, error


BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe{}",
    b'{"messages": [{"role": "user", "content": "\xff"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}',
    b'{"messages": [{"role": "user", "content": "hi"}], "seed": ' + b"9" * 5000 + b"}",
    b"[" * 50_000,
    b'{"messages": [{"role": "user", "content": "hi"}], "\\ud800": 1}',
]


@pytest.mark.parametrize("body", BODIES, ids=[repr(body[:24]) for body in BODIES])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_bad_bodies(body: bytes, path: str, served: Served) -> None:
    complaint(post(served, body, path))


def test_large_bodies_with_and_without_their_length(served: Served) -> None:
    assert "too large" in complaint(post(served, b"x" * 100_001), 413)["message"]
    assert (
        "too large"
        in complaint(
            served.client.post(
                CHAT,
                content=iter([b"x" * 60_000] * 3),
                headers={"content-type": "application/json"},
            ),
            413,
        )["message"]
    )
    assert served.text()


def test_other_paths_methods_and_types(served: Served) -> None:
    complaint(served.client.get("/v1/nothing"), 404)
    complaint(served.client.get(CHAT), 405)
    assert "application/json" in complaint(served.client.post(CHAT, data={"a": "b"}))["message"]
    complaint(served.client.post("/v1/completions", json={"prompt": [10**6]}))
    assert served.client.get("/health").json() == {"status": "ok"}


def test_the_key_is_asked_for_under_v1_alone(lm: LM) -> None:
    with serving(lm, api_key="sesame") as served:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic sesame"},
            {"authorization": "Bearer s\u00e9same"},
        ):
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            assert (
                complaint(served.client.get("/v1/models", headers=raw), 401)["code"]
                == "invalid_api_key"
            )
        complaint(served.client.post(CHAT, json={}), 401)
        assert (
            served.client.get("/v1/models", headers={"authorization": "Bearer sesame"}).status_code
            == 200
        )
        assert served.client.get("/health").status_code == served.client.get("/").status_code == 200


@pytest.mark.parametrize(
    "mode",
    [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE],
    ids=lambda mode: mode.name,
)
def test_no_request_within_or_beyond_our_own_document_breaks_the_server(
    mode: schemathesis.GenerationMode, served: Served
) -> None:
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [each.ok() for each in document.get_all_operations()]
    assert len(operations) == 6
    if mode == schemathesis.GenerationMode.NEGATIVE:
        operations = [operation for operation in operations if operation.method == "post"]

    @settings(
        max_examples=60,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations])
    )
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("max_tokens", 1), int):
            case.body["max_tokens"] = (
                4
                if case.body.get("max_tokens", 1) in (None, -1)
                else min(case.body.get("max_tokens", 4), 4)
            )
        response = case.call(timeout=60)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    assert served.text()


# What happens to neighbours
# ----------------------------------------------------------------------------------------------------


def test_a_full_queue_turns_away_and_serves_the_rest(
    lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(app_module, "Engine", paused(gate))
    with serving(lm, batch_size=2, max_waiting=3) as served, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(served.chat, PROMPTS[i % 5], max_tokens=32) for i in range(12)]
        wait(lambda: served.metric("http_responses_total", status="429") == 7, 60.0)
        gate.set()
        found = [each.result() for each in asked]
        good = [i for i, each in enumerate(found) if each.status_code == 200]
        assert len(good) == 5, "two run, three wait"
        for i, response in enumerate(found):
            if i in good:
                assert (
                    response.json()["choices"][0]["message"]["content"]
                    == lm.generate(PROMPTS[i % 5], gen_length=32).text
                )
            else:
                assert (
                    complaint(response, 429)["code"] == "queue_full"
                    and response.headers["retry-after"] == "1"
                )
        assert (
            complaint(served.chat(n=6, max_tokens=32))["param"] == "n"
            and served.metric("num_requests_running") == 0
        ), "it never fits"


def test_nan_and_out_of_memory_end_one_request(lm: LM) -> None:
    nan, memory = (lm.encode(text, raw=True)[-1] for text in ("Say Peru", "Say Japan"))
    with (
        serving(with_model(lm, Sick(lm.model, nan, memory))) as served,
        ThreadPoolExecutor(6) as pool,
    ):
        prompts = [PROMPTS[0], "Say Peru", PROMPTS[1], "Say Japan", PROMPTS[3], "Say Peru"]
        found = list(pool.map(lambda prompt: served.chat(prompt, max_tokens=40), prompts))
        for prompt, response in zip(prompts, found):
            if "Peru" in prompt:
                assert "not numbers" in complaint(response, 500)["message"]
            elif "Japan" in prompt:
                assert complaint(response, 503)["code"] == "memory"
            else:
                assert (
                    response.json()["choices"][0]["message"]["content"]
                    == lm.generate(prompt, gen_length=40).text
                )
        with served.client.stream(
            "POST",
            CHAT,
            json={"messages": [{"role": "user", "content": "Say Peru"}], "stream": True},
        ) as response:
            assert "not numbers" in response.read().decode()
        assert served.metric("request_success_total", finished_reason="model") == 3


def test_a_conversation_that_the_template_refuses(lm: LM) -> None:
    backend = copy.copy(lm.tokenizer.backend)
    backend.chat_template = "{{ raise_exception('roles must alternate') }}"
    other = copy.copy(lm)
    other.tokenizer = dataclasses.replace(lm.tokenizer, backend=backend)
    with serving(other) as served:
        assert "roles must alternate" in complaint(served.chat())["message"]


def test_what_can_never_fit_is_refused_with_the_figures(lm: LM) -> None:
    with serving(lm, memory=0.0005) as served:
        assert "can never fit" in complaint(served.chat(max_tokens=400))["message"]
        assert served.client.get("/health").status_code == 200


def test_an_engine_that_breaks_is_replaced(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = []

    class Brittle(Engine):
        def step(self) -> Any:
            if len(broken) < 1 and self.stats.running:
                broken.append(1)
                raise RuntimeError("a bug")
            return super().step()

    monkeypatch.setattr(app_module, "Engine", Brittle)
    with serving(with_model(lm, Slow(lm.model))) as served:
        assert "RuntimeError" in complaint(served.chat(decoder="fixed"), 500)["message"]
        assert served.text(max_tokens=40) == lm.generate(PROMPTS[0], gen_length=40).text and broken


def test_vanished_clients_leave_no_rows_and_change_nothing(lm: LM) -> None:
    """Half the clients hang up, some before a word, some in the middle; the others get what they
    get alone.
    """
    with serving(with_model(lm, Slow(lm.model)), batch_size=8) as served:
        host, port = served.url.removeprefix("http://").split(":")

        def vanish(i: int) -> None:
            body = json.dumps(
                {
                    "messages": [{"role": "user", "content": PROMPTS[i % 5]}],
                    "stream": i % 2 == 0,
                    "decoder": "fixed",
                }
            ).encode()
            with socket.create_connection((host, int(port))) as connection:
                head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + (body if i % 4 else body[:10]))
                if i % 4 and i % 3 == 1:
                    wait(lambda: served.metric("num_requests_running") > 0, 60.0)
                elif i % 4 and i % 3 == 2 and i % 2 == 0:
                    assert connection.recv(1), "a word has come"

        with ThreadPoolExecutor(16) as pool:
            answers = [pool.submit(served.text, PROMPTS[i % 5], max_tokens=48) for i in range(5)]
            list(pool.map(vanish, range(12)))
            assert [answer.result() for answer in answers] == [
                lm.generate(prompt, gen_length=48).text for prompt in PROMPTS
            ]
        wait(lambda: served.metric("num_requests_running") == 0)
        assert served.metric("request_success_total", finished_reason="abort") >= 6


def test_hundreds_of_slow_readers_hold_nobody_up(lm: LM) -> None:
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": PROMPTS[1]}],
            "stream": True,
            "draft": True,
            "max_tokens": 8,
        }
    ).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with serving(lm, max_waiting=400, batch_size=64, grace=1.0) as served:
        host, port = served.url.removeprefix("http://").split(":")
        readers = []
        for _ in range(300):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect((host, int(port)))
            connection.sendall(head + body)
            readers.append(connection)
        assert served.text(max_tokens=16) == lm.generate(PROMPTS[0], gen_length=16).text
        wait(lambda: served.metric("request_success_total") >= 301)
        assert all(connection.recv(15) == b"HTTP/1.1 200 OK" for connection in readers[::30])
    for connection in readers:  # still open when the server ended
        connection.close()


# The end of the process
# --------------------------------------------------------------------------------------------------------


def start(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """`credit serve` on a free port; its process and address."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "creditdecoding", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert " at http://127.0.0.1:" in line, line + process.stderr.read()
    return process, line.split(" at ")[1].split()[0]


@pytest.mark.parametrize("grace", [60.0, 0.3])
def test_sigterm_under_load_answers_or_tells_everybody(grace: float) -> None:
    process, url = start("--grace", str(grace), "--batch-size", "4")
    found: list[Any] = []

    def ask(i: int) -> None:
        body = {
            "messages": [{"role": "user", "content": PROMPTS[i % 5]}],
            "decoder": "fixed",
            "max_tokens": 40,
            "ignore_eos": True,
            "stream": i % 2 == 0,
        }
        found.append(httpx.post(url + CHAT, json=body, timeout=120))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    try:
        for thread in threads:
            thread.start()
        with httpx.Client(base_url=url, timeout=60) as client:
            wait(lambda: Served(url, None, client).metric("request_prompt_tokens_count") == 8, 60.0)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(120)
        assert (
            process.wait(30) == 0
            and process.stderr is not None
            and "Traceback" not in process.stderr.read()
        )
    finally:
        process.kill()
    assert len(found) == 8
    told = [r for r in found if r.status_code == 503 or "shutting down" in r.text]
    for response in found:
        if response in told:
            assert "shutting down" in response.text
        else:
            assert response.status_code == 200 and (
                "[DONE]" in response.text or response.json()["choices"][0]["finish_reason"]
            )
    assert told if grace < 1 else not told


def test_a_taken_port_is_one_line(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["credit", "serve", "--port", served.url.rsplit(":", 1)[1]])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and said.startswith("error: cannot listen there")
        and said.count("\n") == 1
    )
