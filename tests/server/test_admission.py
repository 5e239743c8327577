"""What a request costs before it is refused, counted and never timed: memory, errors, calls of the
tokenizer, requests made.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from creditdecoding import lm as lm_module
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.server import app as app_module
from creditdecoding.server.admission import (
    MAX_DEPTH,
    Limits,
    PromptRoom,
    admission_limits,
    check_json_size,
    check_texts,
)
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.parse import make_requests
from creditdecoding.server.schema import CompletionRequest
from tests.helpers.serving import (
    CHAT,
    PROMPTS,
    TEXT,
)

MEGA = 1_000_000
SLACK = 6_000_000  # bytes that a small body may take: a fixed number of small objects
TIMES = 6  # a body's size


class CountedTokenizer:
    """A tokenizer whose calls are counted."""

    def __init__(self, inner: Any, calls: Counter[str]) -> None:
        self._inner = inner
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in ("encode", "apply_chat_template", "__call__"):
            return value

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._calls[name] += 1
            return value(*args, **kwargs)

        return counted


@dataclasses.dataclass
class Cost:
    """What a request did before it was refused."""

    status: int
    error: dict[str, Any]
    peak: int
    errors: int
    calls: Counter[str]


@pytest.fixture
def ask(lm: LM, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], Cost]:
    """Send a body to the application, without a server around it."""
    calls: Counter[str] = Counter()
    collected: list[int] = []
    spied = copy.copy(lm)
    spied.tokenizer = dataclasses.replace(
        lm.tokenizer, backend=CountedTokenizer(lm.tokenizer.to_transformers(), calls)
    )
    new_request = lm_module.new_request
    validation_body = app_module.validation_body

    def counted_request(*args: Any, **kwargs: Any) -> Any:
        calls["new_request"] += 1
        return new_request(*args, **kwargs)

    def counted_errors(errors: Sequence[Any]) -> Any:
        collected.append(len(errors))
        return validation_body(errors)

    monkeypatch.setattr(lm_module, "new_request", counted_request)
    monkeypatch.setattr(app_module, "validation_body", counted_errors)
    http = HttpConfig(max_body=2 * MEGA)
    app, _ = app_module.make_app(spied, "pocket", EngineConfig(), ServeConfig(), http)

    def send_body(path: str, body: bytes) -> Cost:
        calls.clear()
        collected.clear()
        tracemalloc.start()
        try:
            status, answer = asyncio.run(_post(app, path, body))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return Cost(status, json.loads(answer)["error"], peak, sum(collected), calls.copy())

    send_body(CHAT, b"{}")  # objects that are made once are not counted
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
def test_what_is_refused_costs_next_to_nothing(
    case: str, ask: Callable[[str, bytes], Cost]
) -> None:
    path, body = COSTLY[case]
    cost = ask(path, body)
    assert cost.status in (400, 404), cost
    assert cost.peak <= TIMES * len(body) + SLACK, f"{cost.peak} bytes for {len(body)}"
    assert cost.errors <= 8, "errors collected"
    assert not cost.calls, "nothing is tokenised and no request is made"
    error = cost.error
    assert len(error["message"]) <= 2000
    assert len(error["param"] or "") <= 200
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
    room = PromptRoom(4000)
    with pytest.raises(OptionError, match="prompt cannot fit into the model"):
        check_texts(other, ["hello " * 80_000], room, limits, "prompt")
    assert sizes == [32_000, 64_000]
    check_texts(other, ["hello " * 4_000], room, limits, "prompt")  # may fit: the row will say


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
def test_brackets_and_quotes_in_strings_do_not_count(body: bytes, lm: LM) -> None:
    json.loads(body)
    check_json_size(body, admission_limits(lm, EngineConfig(), ServeConfig()))


def test_the_request_of_a_prompt_is_made_once(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    new_request = lm_module.new_request

    def recorded(*args: Any) -> Any:
        made.append(args)
        return new_request(*args)

    monkeypatch.setattr(lm_module, "new_request", recorded)
    body = CompletionRequest(prompt=PROMPTS[:2], n=8, max_tokens=4)
    limits = admission_limits(lm, EngineConfig(), ServeConfig())
    assert len(make_requests(lm, body, limits)) == 16
    assert len(made) == 2
