"""What a request costs before it is admitted, counted and never timed: memory, errors collected,
calls of the tokenizer, rows made.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from creditdecoding import lm as lm_module
from creditdecoding.config import EngineConfig, GenerationConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM, load
from creditdecoding.server import app as app_module
from creditdecoding.server.admission import (
    MAX_DEPTH,
    Limits,
    admission_limits,
    check_json_size,
    check_texts,
)
from creditdecoding.server.options import HttpConfig
from tests.helpers.serving import PROMPTS, paused, serving, wait

torch.set_num_threads(1)
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MEGA = 1_000_000
SLACK = 6_000_000  # bytes that a small body may take: a fixed number of small objects
TIMES = 6  # a body's size


def complaint(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a response."""
    assert response.status_code == status, response.text
    return dict(response.json()["error"])


class Spy:
    """An object whose method calls are counted."""

    def __init__(self, inner: Any, calls: Counter[str]) -> None:
        self._inner = inner
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in ("encode", "apply_chat_template", "__call__"):
            return value

        def counted(*given: Any, **named: Any) -> Any:
            self._calls[name] += 1
            return value(*given, **named)

        return counted


@dataclasses.dataclass
class Cost:
    """What a request did before it was refused."""

    status: int
    error: dict[str, Any]
    peak: int
    errors: int
    calls: Counter[str]


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


@pytest.fixture
def ask(lm: LM, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], Cost]:
    """Send a body to the application, without a server around it."""
    calls: Counter[str] = Counter()
    collected = [0]
    spied = copy.copy(lm)
    spied.tokenizer = dataclasses.replace(lm.tokenizer, backend=Spy(lm.tokenizer.backend, calls))
    start_row, respond = lm_module.new_request, app_module.validation_body

    def counted_row(*given: Any, **named: Any) -> Any:
        calls["rows"] += 1
        return start_row(*given, **named)

    def counted_errors(errors: Sequence[Any]) -> Any:
        collected[0] += len(errors)
        return respond(errors)

    monkeypatch.setattr(lm_module, "new_request", counted_row)
    monkeypatch.setattr(app_module, "validation_body", counted_errors)
    http = HttpConfig(max_body=2 * MEGA)
    app, _ = app_module.make_app(spied, "pocket", EngineConfig(), ServeConfig(), http)

    def send_body(path: str, body: bytes) -> Cost:
        calls.clear()
        collected[0] = 0
        tracemalloc.start()
        try:
            status, answer = asyncio.run(_post(app, path, body))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return Cost(status, json.loads(answer)["error"], peak, collected[0], calls.copy())

    send_body(CHAT, b"{}")  # what is made once is not counted
    return send_body


async def _post(app: Any, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to a POST, over ASGI."""
    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def text(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", **fields}).encode()


def chat(*messages: Any) -> bytes:
    return json.dumps({"messages": messages}).encode()


LONG = "x" * MEGA
WORDS = "hello " * (MEGA // 6)
COSTLY: dict[str, tuple[str, bytes]] = {
    "numbers for messages": (CHAT, b'{"messages":[' + b"0," * 500_000 + b"0]}"),
    "a few numbers for messages": (CHAT, b'{"messages":[' + b"0," * 30_000 + b"0]}"),
    "lists for messages": (CHAT, b'{"messages":[' + b"[]," * 330_000 + b"0]}"),
    "objects for messages": (CHAT, b'{"messages":[' + b"{}," * 330_000 + b"0]}"),
    "thousands of objects": (CHAT, b'{"messages":[' + b"{}," * 3_000 + b"0]}"),
    "thousands of turns": (CHAT, chat(*[{"role": "user", "content": "a"}] * 4000)),
    "turns that cannot fit": (CHAT, chat(*[{"role": "user", "content": "a"}] * 800)),
    "parts of a turn": (
        CHAT,
        chat({"role": "user", "content": [{"type": "text", "text": "a"}] * 1900}),
    ),
    "numbers for a prompt": (TEXT, b'{"prompt":[' + b"1000," * 30_000 + b"0]}"),
    "floats for a prompt": (TEXT, b'{"prompt":[' + b"0.5," * 30_000 + b"1]}"),
    "mixed prompts": (TEXT, b'{"prompt":["a",' + b"0," * 30_000 + b"0]}"),
    "texts for stop": (TEXT, text(stop=["ab"] * 100_000)),
    "numbers for stop": (TEXT, text(stop=[1] * 30_000)),
    "unknown fields": (TEXT, text(**{f"k{i}": 1 for i in range(70_000)})),
    "some unknown fields": (TEXT, text(**{f"k{i}": 1 for i in range(9_000)})),
    "unknown fields of a turn": (CHAT, chat({f"k{i}": 1 for i in range(9_000)})),
    "unknown stream_options": (TEXT, text(stream_options={f"k{i}": 1 for i in range(9_000)})),
    "knobs": (TEXT, text(decoder={f"k{i}": 1 for i in range(9_000)})),
    "brackets": (TEXT, b"[" * MEGA),
    "quotes": (TEXT, b'"' * MEGA),
    "a deep decoder": (TEXT, b'{"prompt":"a","decoder":{"a":' + b"[" * 40 + b"]" * 40 + b"}}"),
    "long integers": (CHAT, b'{"messages":[' + b"9" * 4000 + b"]}"),
    "a longer integer": (TEXT, b'{"prompt":"a","seed":' + b"9" * MEGA + b"}"),
    "a long name": (TEXT, text(**{LONG: 1})),
    "a long model": (TEXT, text(model=LONG)),
    "a long decoder": (TEXT, text(decoder=LONG)),
    "a long decoder's name": (TEXT, text(decoder={"name": LONG})),
    "a long knob": (TEXT, text(decoder={"name": "credit", LONG: 1})),
    "a long cache": (TEXT, text(cache=LONG)),
    "a long number": (TEXT, text(temperature=LONG)),
    "a long role": (CHAT, chat({"role": LONG, "content": "a"})),
    "a long field of a turn": (CHAT, chat({"role": "user", "content": "a", LONG: 1})),
    "a long prompt": (TEXT, text(prompt=WORDS)),
    "a long prompt among others": (TEXT, text(prompt=["a", WORDS])),
    "escaped quotes": (TEXT, text(prompt='"' * (MEGA // 2))),
    "a long turn": (CHAT, chat({"role": "user", "content": WORDS})),
    "many long turns": (CHAT, chat(*[{"role": "user", "content": "hello " * 1000}] * 150)),
    "a long suffix": (TEXT, text(suffix=WORDS)),
    "more answers than fit": (TEXT, text(prompt=["a"] * 64, n=64, max_tokens=400)),
    "more answers than fit, just": (TEXT, text(prompt=["a"] * 27, n=3)),
    "an answer longer than the model": (TEXT, text(prompt=["a"] * 64, max_tokens=512)),
}


@pytest.mark.parametrize("case", COSTLY)
def test_what_cannot_be_served_costs_next_to_nothing(
    case: str, ask: Callable[[str, bytes], Cost]
) -> None:
    path, body = COSTLY[case]
    cost = ask(path, body)
    assert cost.status in (400, 404), cost
    assert cost.peak <= TIMES * len(body) + SLACK, f"{cost.peak} bytes for {len(body)}"
    assert cost.errors <= 8, "errors collected"
    assert not cost.calls, "nothing is tokenised and no row is made"
    error = cost.error
    assert len(error["message"]) <= 2000 and len(error["param"] or "") <= 200
    assert "\n" not in error["message"]


def test_a_long_text_is_given_up_after_its_beginning(lm: LM) -> None:
    """Where the longest token is long, a text may have few enough characters and still far too many
    tokens.
    """
    sizes: list[int] = []

    def encode(text: str) -> list[int]:
        sizes.append(len(text))
        return list(range(len(text) // 6))

    other = copy.copy(lm)
    other.tokenizer = SimpleNamespace(encode=encode)
    limits = Limits(answers=1, token_ids=1, token_chars=128)
    with pytest.raises(OptionError, match="prompt cannot fit into the model"):
        check_texts(other, ["hello " * 80_000], 4000, limits, "prompt")
    assert sizes == [32_000, 64_000]
    check_texts(other, ["hello " * 4_000], 4000, limits, "prompt")  # may fit: the row will say


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"' + b'\\"[{,' * 100_000 + b'"}',
        b'{"prompt":"' + b'\\\\\\"[,' * 50_000 + b'"}',
        b'{"prompt":"' + b"[[[[{{{{" * 1000 + b'\\\\","n":1}',
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'{"prompt":[' + b"1000," * 32_000 + b"1]}",
    ],
)
def test_what_stands_in_texts_weighs_nothing(body: bytes, lm: LM) -> None:
    json.loads(body)
    check_json_size(body, admission_limits(lm, EngineConfig(), ServeConfig()))


def test_what_fits_later_is_429_and_what_never_fits_400(lm: LM) -> None:
    (row,) = lm.new_requests([PROMPTS[0]], GenerationConfig(gen_length=8))
    one = Engine(lm.model, lm.vocab, lm.device).memory_bytes(row)
    with serving(lm, batch_size=2, max_waiting=3, memory=1.5 * one / 2**30) as served:
        assert len(served.chat(n=4, max_tokens=8).json()["choices"]) == 4, "one runs, three wait"
        for n, said in ((5, "ever hold at once"), (6, "fit at once")):
            error = complaint(served.chat(n=n, max_tokens=8))
            assert said in error["message"] and error["param"] == "n"


def test_a_full_server_asks_to_try_again(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two requests that fit alone, the one that comes while the other is there is told that it
    may fit later.
    """
    gate = threading.Event()
    monkeypatch.setattr(app_module, "Engine", paused(gate))
    with serving(lm, batch_size=1, max_waiting=1) as served:
        first = threading.Thread(target=served.chat, kwargs={"n": 2, "max_tokens": 8})
        first.start()
        try:
            wait(lambda: served.metric("num_requests_waiting") == 1, 60.0)
            assert complaint(served.chat(n=2, max_tokens=8), 429)["code"] == "queue_full"
        finally:
            gate.set()
            first.join(60)
        assert len(served.chat(n=2, max_tokens=8).json()["choices"]) == 2


def test_an_error_repeats_the_beginning_of_a_long_value() -> None:
    said = str(OptionError("alpha has the wrong type", given=LONG, hint="Change it."))
    assert len(said) < 500 and "xxx" in said and f"({MEGA + 2} characters)" in said


def test_others_are_answered_while_a_prompt_is_tokenised(lm: LM) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Spy):
        def __getattr__(self, name: str) -> Any:
            if threading.current_thread().name.startswith("prompts"):
                begun.set()
                assert go_on.wait(60)
            return super().__getattr__(name)

    other = copy.copy(lm)
    other.tokenizer = dataclasses.replace(
        lm.tokenizer, backend=Slow(lm.tokenizer.backend, Counter())
    )
    with serving(other) as served:
        asked = threading.Thread(target=served.chat, kwargs={"max_tokens": 4})
        asked.start()
        try:
            assert begun.wait(60)
            assert served.client.get("/health").json() == {"status": "ok"}
        finally:
            go_on.set()
            asked.join(60)


def test_rows_of_a_prompt_are_made_once(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    start_row = lm_module.new_request
    monkeypatch.setattr(
        lm_module, "new_request", lambda *given: made.append(given) or start_row(*given)
    )
    with serving(lm) as served:
        fields = {"prompt": PROMPTS[:2], "n": 8, "max_tokens": 4}
        choices = served.client.post(TEXT, json=fields).json()["choices"]
    assert len(choices) == 16 and len(made) == 2
