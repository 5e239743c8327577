"""A server on a free port of this machine, in a thread of the test, and models that are slow, sick
or wait for a signal.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.lm import LM, load
from creditdecoding.server.listener import listen, url_of
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.serve import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
PROMPTS = [
    "Tom has 6 apples. Tom finds 5 more. How many apples does Tom have now?",
    "Solve 3x+4=19 for x.",
    "What is the capital of Peru and the language of Japan?",
    "Solve 5x+1=21 for x.",
    "What is s when 5s+5=2s+20?",
]
SMALL_BODY = 100_000  # bytes: max_body of the shared server
PATIENCE = 120.0  # seconds after which what hangs is given up


def messages(prompt: str = PROMPTS[0]) -> Any:
    """A conversation of one turn."""
    return [{"role": "user", "content": prompt}]


@dataclass(frozen=True)
class Served:
    """A running server, and a client for it."""

    url: str
    server: Server
    client: httpx.Client

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def connections(self) -> set[Any]:
        """The server's open connections."""
        return self.server.server_state.connections

    def chat(self, prompt: str = PROMPTS[0], **fields: Any) -> httpx.Response:
        return self.client.post(CHAT, json={"messages": messages(prompt), **fields})

    def text(self, prompt: str = PROMPTS[0], **fields: Any) -> str:
        return self.chat(prompt, **fields).json()["choices"][0]["message"]["content"]

    def complete(self, **fields: Any) -> dict[str, Any]:
        """The body of a successful answer of /v1/completions."""
        response = self.client.post(TEXT, json=fields)
        assert response.status_code == 200, response.text
        return response.json()

    def texts(self, **fields: Any) -> list[str]:
        """The answers of /v1/completions."""
        return [choice["text"] for choice in self.complete(**fields)["choices"]]

    def events(self, path: str = CHAT, **fields: Any) -> list[dict[str, Any]]:
        """All events of a streamed answer, which must end with [DONE]."""
        with self.client.stream("POST", path, json={"stream": True, **fields}) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def choices(self, **fields: Any) -> Iterator[dict[str, Any]]:
        """The choices of a streamed chat answer as they come."""
        with self.client.stream("POST", CHAT, json={"stream": True, **fields}) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield from json.loads(line.removeprefix("data: "))["choices"]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that have these labels."""
        return metric(self.client.get("/metrics").text, name, **labels)


def metric(metrics: str, name: str, **labels: str) -> float:
    """Sum of a metric's samples that have these labels."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"credit:{name}{{")]
    pairs = [f'{key}="{value}"' for key, value in labels.items()]
    samples = [line for line in lines if all(pair in line for pair in pairs)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in samples)


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a response with this status, which must be in OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["type"], str) and "\n" not in error["message"]
    return error


@pytest.fixture(scope="session")
def lm() -> LM:
    """The embedded model."""
    return load("pocket")


@pytest.fixture(scope="session")
def served(lm: LM) -> Iterator[Served]:
    """A server of it for all tests."""
    with serving(lm, max_body=SMALL_BODY) as served:
        yield served


@contextmanager
def serving(
    lm: LM,
    *,
    batch_size: int = 16,
    name: str = "pocket",
    max_waiting: int = 64,
    memory: float | None = None,
    **http: Any,
) -> Iterator[Served]:
    """Serve `lm` for the time of a with-block."""
    options = HttpConfig(port=0, **{"grace": 5.0, **http})
    serve = ServeConfig(max_waiting=max_waiting, memory=memory)
    server = Server(lm, name, EngineConfig(batch_size=batch_size), serve, options)
    listener = listen(options)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = url_of(listener)
    try:
        wait(lambda: server.started)
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            yield Served(url, server, client)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
        assert not thread.is_alive()


def wait(until: Callable[[], bool]) -> None:
    """Wait until something is true. It must stay true: a moment in between may be missed."""
    ends = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.005)


Reads = tuple[torch.Tensor, torch.Tensor]
"""The sequences and positions whose logits a pass is asked for."""


class Spy:
    """A model that does something after each pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(
        self, tokens: torch.Tensor, read: Reads, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        self.passes += 1
        return self.after(tokens, read, self.model(tokens, read, *args, **kwargs))

    def after(self, tokens: torch.Tensor, read: Reads, logits: torch.Tensor) -> torch.Tensor:
        return logits


class Slow(Spy):
    """Every pass takes 30 ms longer."""

    seconds = 0.03

    def after(self, tokens: torch.Tensor, read: Reads, logits: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return logits


class Gated(Spy):
    """Makes `free` passes; the others wait until the gate is opened."""

    def __init__(self, model: Any, free: int) -> None:
        super().__init__(model)
        self.free = free
        self.gate = threading.Event()

    def after(self, tokens: torch.Tensor, read: Reads, logits: torch.Tensor) -> torch.Tensor:
        if self.passes > self.free:
            assert self.gate.wait(PATIENCE), "nobody opened the gate"
        return logits


class Stepped(Spy):
    """Makes a pass for each permit."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.permits = threading.Semaphore(1)

    def after(self, tokens: torch.Tensor, read: Reads, logits: torch.Tensor) -> torch.Tensor:
        assert self.permits.acquire(timeout=PATIENCE), "nobody asked for another pass"
        return logits


class Sick(Spy):
    """Returns NaN for sequences with one token, and runs out of memory at another one."""

    def __init__(self, model: Any, nan: int, memory: int) -> None:
        super().__init__(model)
        self.nan = nan
        self.memory = memory

    def after(self, tokens: torch.Tensor, read: Reads, logits: torch.Tensor) -> torch.Tensor:
        if bool((tokens == self.memory).any()):
            raise torch.cuda.OutOfMemoryError("simulated")
        sequences, _ = read
        logits[(tokens == self.nan).any(1)[sequences]] = torch.nan
        return logits


def paused(gate: threading.Event) -> type[Engine]:
    """Engines that accept requests and make no pass before the gate is opened."""

    class Paused(Engine):
        def step(self) -> Any:
            return super().step() if gate.wait(0.01) else []

    return Paused


def with_model(lm: LM, model: Any) -> LM:
    """The same `LM` with another model."""
    other = copy.copy(lm)
    other.model = model
    return other
