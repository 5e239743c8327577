"""Neighbours: a request that fails, is refused or loses its client changes nothing for others."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.lm import LM
from creditdecoding.server import app as app_module
from tests.helpers.serving import (
    PATIENCE,
    PROMPTS,
    Sick,
    Slow,
    error_of,
    messages,
    paused,
    serving,
    wait,
    with_model,
)
from tests.helpers.wire import (
    QUESTION,
    connect,
    connect_slow_reader,
    post,
)


def answer_of(response: httpx.Response) -> str:
    return response.json()["choices"][0]["message"]["content"]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Engines accept requests, and make no pass before this is set."""
    gate = threading.Event()
    monkeypatch.setattr(app_module, "Engine", paused(gate))
    yield gate
    gate.set()


# Full ------------------------------------------------------------


def test_a_full_queue_refuses_and_serves_the_rest(lm: LM, gate: threading.Event) -> None:
    with serving(lm, batch_size=2, max_waiting=3) as served, ThreadPoolExecutor(12) as pool:
        prompts = [PROMPTS[index % len(PROMPTS)] for index in range(12)]
        futures = [pool.submit(served.chat, prompt, max_tokens=24) for prompt in prompts]
        wait(lambda: served.metric("http_responses_total", status="429") == 7)
        gate.set()
        answered = 0
        for prompt, future in zip(prompts, futures):
            response = future.result()
            if response.status_code == 200:
                answered += 1
                assert answer_of(response) == lm.generate(prompt, gen_length=24).text
            else:
                assert error_of(response, 429)["code"] == "queue_full"
                assert response.headers["retry-after"] == "1"
        assert answered == 5, "two run, three wait"
        assert error_of(served.chat(n=6, max_tokens=24))["param"] == "n", "it never fits"
        assert served.metric("num_requests_running") == 0


def test_what_fits_later_is_429(lm: LM, gate: threading.Event) -> None:
    """Of two requests that fit alone, the second one may fit later."""
    with serving(lm, batch_size=1, max_waiting=1) as served, ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.chat, n=2, max_tokens=8)
        wait(lambda: served.metric("num_requests_waiting") == 1)
        assert error_of(served.chat(n=2, max_tokens=8), 429)["code"] == "queue_full"
        gate.set()
        assert len(first.result().json()["choices"]) == 2
        assert len(served.chat(n=2, max_tokens=8).json()["choices"]) == 2


def test_what_never_fits_is_400(lm: LM) -> None:
    (request,) = lm.new_requests([PROMPTS[0]], GenerationConfig(gen_length=8))
    one = Engine(lm.model, lm.vocab, lm.device).memory_bytes(request)
    with serving(lm, batch_size=2, max_waiting=3, memory=1.5 * one / 2**30) as served:
        assert len(served.chat(n=4, max_tokens=8).json()["choices"]) == 4, "one runs, three wait"
        for n, text in ((5, "ever hold at once"), (6, "fit at once")):
            error = error_of(served.chat(n=n, max_tokens=8))
            assert text in error["message"]
            assert error["param"] == "n"


def test_what_can_never_fit_is_refused_with_the_figures(lm: LM) -> None:
    with serving(lm, memory=0.0005) as served:
        assert "can never fit" in error_of(served.chat(max_tokens=400))["message"]
        assert served.client.get("/health").status_code == 200


# Failing ------------------------------------------------------------


def test_nan_and_out_of_memory_end_one_request(lm: LM) -> None:
    nan, memory = (lm.encode(text, raw=True)[-1] for text in ("Say Peru", "Say Japan"))
    sick = with_model(lm, Sick(lm.model, nan, memory))
    with serving(sick) as served, ThreadPoolExecutor(6) as pool:
        prompts = [PROMPTS[0], "Say Peru", PROMPTS[1], "Say Japan", PROMPTS[3], "Say Peru"]
        responses = pool.map(lambda prompt: served.chat(prompt, max_tokens=24), prompts)
        for prompt, response in zip(prompts, responses):
            if "Peru" in prompt:
                assert "not numbers" in error_of(response, 500)["message"]
            elif "Japan" in prompt:
                assert error_of(response, 503)["code"] == "memory"
            else:
                assert answer_of(response) == lm.generate(prompt, gen_length=24).text
        assert "not numbers" in served.chat("Say Peru", stream=True).text
        assert served.metric("request_success_total", finished_reason="model") == 3


def test_an_engine_that_breaks_is_replaced(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([RuntimeError("a bug")])

    class Brittle(Engine):
        def step(self) -> Any:
            failure = next(failures, None) if self.stats.running else None
            if failure is not None:
                raise failure
            return super().step()

    monkeypatch.setattr(app_module, "Engine", Brittle)
    with serving(with_model(lm, Slow(lm.model))) as served:
        assert "RuntimeError" in error_of(served.chat(decoder="fixed"), 500)["message"]
        assert served.text(max_tokens=24) == lm.generate(PROMPTS[0], gen_length=24).text


# Leaving and waiting ------------------------------------------------------------


def test_vanished_clients_leave_no_requests_and_change_nothing(lm: LM) -> None:
    """Clients hang up in the middle of their request, of the queue or of the answer; the others get
    what they get alone.
    """
    slow = with_model(lm, Slow(lm.model))
    with serving(slow, batch_size=8) as served, ThreadPoolExecutor(16) as pool:

        def vanish(index: int) -> None:
            prompt = messages(PROMPTS[index % len(PROMPTS)])
            whole = post({"messages": prompt, "stream": True, "decoder": "fixed"})
            with closing(connect(served)) as connection:
                if index % 3 == 0:
                    connection.sendall(whole[:-10])
                    return
                connection.sendall(whole)
                if index % 3 == 1:
                    wait(lambda: served.metric("num_requests_running") > 0)
                else:
                    assert connection.recv(1)

        answers = [pool.submit(served.text, prompt, max_tokens=32) for prompt in PROMPTS]
        list(pool.map(vanish, range(12)))
        own = lm.generate(PROMPTS, gen_length=32)
        assert [answer.result() for answer in answers] == [done.text for done in own]
        wait(lambda: served.metric("num_requests_running") == 0)
        assert served.metric("request_success_total", finished_reason="abort") >= 4


@pytest.mark.slow
def test_hundreds_of_slow_readers_hold_nobody_up(lm: LM) -> None:
    request = post({**QUESTION, "stream": True, "draft": True})
    with serving(lm, max_waiting=400, batch_size=64, grace=1.0) as served:
        readers = []
        for _ in range(200):
            connection = connect_slow_reader(served.port)
            connection.sendall(request)
            readers.append(connection)
        assert served.text(max_tokens=16) == lm.generate(PROMPTS[0], gen_length=16).text
        wait(lambda: served.metric("request_success_total") >= 201)
        assert all(connection.recv(15) == b"HTTP/1.1 200 OK" for connection in readers[::30])
    for connection in readers:  # still open when the server ended
        connection.close()


def test_others_are_answered_while_a_prompt_is_tokenised(lm: LM) -> None:
    backend = lm.tokenizer.to_transformers()
    started = threading.Event()
    may_end = threading.Event()

    class SlowTokenizer:
        def __getattr__(self, name: str) -> Any:
            if threading.current_thread().name.startswith("prompts"):
                started.set()
                assert may_end.wait(PATIENCE)
            return getattr(backend, name)

    other = copy.copy(lm)
    other.tokenizer = dataclasses.replace(lm.tokenizer, backend=SlowTokenizer())
    with serving(other) as served, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.chat, max_tokens=4)
        try:
            assert started.wait(PATIENCE)
            assert served.client.get("/health").json() == {"status": "ok"}
        finally:
            may_end.set()
        assert answer.result().status_code == 200
