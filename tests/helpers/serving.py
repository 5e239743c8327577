"""A server on a free port of this machine, in a thread of the test, and models that are slow, sick
or forgetful.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import torch

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.lm import LM
from creditdecoding.server.listener import listen, url_of
from creditdecoding.server.options import HttpConfig
from creditdecoding.server.serve import Server

PROMPTS = [
    "Tom has 6 apples. Tom finds 5 more. How many apples does Tom have now?",
    "Solve 3x+4=19 for x.",
    "What is the capital of Peru and the language of Japan?",
    "Solve 5x+1=21 for x.",
    "What is s when 5s+5=2s+20?",
]


@dataclass(frozen=True)
class Served:
    """A running server, and a client for it."""

    url: str
    server: Server | None
    client: httpx.Client

    def chat(self, prompt: str = PROMPTS[0], **fields: Any) -> httpx.Response:
        return self.client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": prompt}], **fields},
        )

    def text(self, prompt: str = PROMPTS[0], **fields: Any) -> str:
        return self.chat(prompt, **fields).json()["choices"][0]["message"]["content"]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples whose labels are as given."""
        found = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"credit:{name}{{") and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                found += float(line.rsplit(" ", 1)[1])
        return found


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
    server, listening = (
        Server(
            lm,
            name,
            EngineConfig(batch_size=batch_size),
            ServeConfig(max_waiting=max_waiting, memory=memory),
            options,
        ),
        listen(options),
    )
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    url = url_of(listening)
    try:
        wait(lambda: server.started)
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Served(url, server, client)
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


def wait(until: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.005)


class Spy:
    """A model that does something around each pass."""

    def __init__(self, model: Any) -> None:
        self.model, self.passes = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(
        self,
        tokens: torch.Tensor,
        read: tuple[torch.Tensor, torch.Tensor],
        *rest: Any,
        **named: Any,
    ) -> torch.Tensor:
        self.passes += 1
        return self.after(tokens, read, self.model(tokens, read, *rest, **named))

    def after(
        self, tokens: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor
    ) -> torch.Tensor:
        return logits


class Slow(Spy):
    """Takes its time."""

    seconds = 0.03

    def after(
        self, tokens: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor
    ) -> torch.Tensor:
        time.sleep(self.seconds)
        return logits


def paused(gate: threading.Event) -> type[Engine]:
    """Engines that take requests and make no pass before the gate is opened."""

    class Paused(Engine):
        def step(self) -> Any:
            return super().step() if gate.wait(0.01) else []

    return Paused


class Gated(Spy):
    """Makes so many passes freely; the others wait until the gate is opened."""

    def __init__(self, model: Any, free: int) -> None:
        super().__init__(model)
        self.free = free
        self.gate = threading.Event()

    def after(
        self, tokens: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor
    ) -> torch.Tensor:
        if self.passes > self.free:
            assert self.gate.wait(60), "nobody opened the gate"
        return logits


class Stepped(Spy):
    """Makes a pass for each permit."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.permits = threading.Semaphore(1)

    def after(
        self, tokens: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor
    ) -> torch.Tensor:
        assert self.permits.acquire(timeout=60), "nobody asked for another pass"
        return logits


class Sick(Spy):
    """Answers NaN, or runs out of memory, for rows that hold a certain token."""

    def __init__(self, model: Any, nan: int, memory: int) -> None:
        super().__init__(model)
        self.nan, self.memory = nan, memory

    def after(
        self, tokens: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor
    ) -> torch.Tensor:
        if bool((tokens == self.memory).any()):
            raise torch.cuda.OutOfMemoryError("simulated")
        logits[(tokens == self.nan).any(1)[read[0]]] = torch.nan
        return logits


def with_model(lm: LM, model: Any) -> LM:
    """The same with another model."""
    other = copy.copy(lm)
    other.model = model
    return other
