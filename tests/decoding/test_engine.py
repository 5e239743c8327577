"""Continuous batching: each request gets the tokens it gets alone, whatever shares its passes,
joins, leaves, or fails.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creditdecoding.config import EngineConfig, GenerationConfig, ServeConfig
from creditdecoding.decoders import names, resolve
from creditdecoding.decoding.cache_policy import supported_policies
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request
from creditdecoding.errors import OptionError, QueueFullError
from creditdecoding.lm import LM, load
from creditdecoding.trace import FinishEvent, StepEvent, Trace
from tools.make_checkpoint import FAMILIES, make

torch.set_num_threads(1)
CACHES = {"every": "every:n=2", "vicinity": "vicinity:w=3"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@cache
def tiny(folder: Path) -> LM:
    """A random checkpoint whose predictions are decided enough that the last bit of a sum does not
    turn one.
    """
    lm = load(str(folder))
    with torch.no_grad():
        lm.model.embed.weight.mul_(20.0)  # type: ignore[attr-defined]
    return lm


def engine(lm: LM, batch_size: int = 16, **serve: Any) -> Engine:
    return Engine(
        lm.model, lm.vocab, lm.device, EngineConfig(batch_size=batch_size), ServeConfig(**serve)
    )


def alone(lm: LM, row: Request) -> Trace:
    """What the plain loop does for one row."""
    trace = Trace(tuple(row.canvas[: row.answer_start].tolist()))
    for event in denoise(lm.model, [row], lm.vocab, lm.device):
        trace.add(event)
    return trace


def same(ours: Trace, expected: Trace) -> None:
    """The same passes and tokens; confidences and log-probabilities up to rounding. As many
    positions too, unless some were taken over from other requests.
    """
    assert [
        (s.block, s.step, s.positions, s.tokens, s.committed, s.sequences) for s in ours.steps
    ] == [
        (s.block, s.step, s.positions, s.tokens, s.committed, s.sequences) for s in expected.steps
    ]
    for a, b in zip(ours.steps, expected.steps):
        assert a.reused or a.computed == b.computed
    assert ours.finish is not None and expected.finish is not None
    assert (ours.tokens, ours.finish.reason) == (expected.tokens, expected.finish.reason)
    for a, b in zip(ours.steps, expected.steps):
        assert a.confidence == pytest.approx(
            b.confidence, abs=1e-3
        ) and a.logprobs == pytest.approx(b.logprobs, abs=1e-2)


def rows(draw: Callable[[st.SearchStrategy[Any]], Any], lm: LM) -> list[Request]:
    """Requests of every kind: decoders, caches, sampling, guidance, gaps, lengths."""
    requests = []
    caches = [CACHES.get(name, name) for name in supported_policies(lm.geometry)]
    for _ in range(draw(st.integers(2, 6))):
        prompt = "the sun is red " * draw(st.integers(1, 4)) + "x" * draw(st.integers(0, 3))
        width = lm.geometry.causal_block or draw(st.integers(2, 9))
        config = GenerationConfig(
            decoder=draw(st.sampled_from(names())),
            cache=draw(st.sampled_from(caches)),
            gen_length=draw(st.integers(1, 16)),
            block_length=width,
            temperature=draw(st.sampled_from((0.0, 0.0, 0.8))),
            top_k=draw(st.sampled_from((None, 5))),
            cfg_scale=draw(st.sampled_from((0.0, 0.0, 1.5))),
            seed=draw(st.integers(0, 99)),
            early_stop=draw(st.booleans()),
            confidence_eos_eot_inf=draw(st.booleans()),
        )
        text = prompt + "[MASK]" * draw(st.integers(1, 3)) + " red"
        requests.append(
            lm.new_infill_request(text, config)
            if draw(st.booleans()) and draw(st.booleans())
            else lm.new_requests([prompt], config, raw=True)[0]
        )
    return requests


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3, deadline=None, database=None)
@given(data=st.data())
def test_each_request_gets_what_it_gets_alone(
    family: str, folders: dict[str, Path], data: st.DataObject
) -> None:
    """Random arrivals and aborts: a request that is not aborted has the trace of the plain loop."""
    lm = tiny(folders[family])
    waiting = rows(data.draw, lm)
    server = engine(lm, data.draw(st.integers(1, 4)))
    request_of: dict[int, Request] = {}
    traces: dict[int, Trace] = {}
    ended: set[int] = set()
    while waiting or server.busy:
        action = data.draw(st.sampled_from(("submit", "step", "step", "abort")))
        if action == "submit" and waiting:
            row = waiting.pop()
            request = server.submit(row)
            request_of[request], traces[request] = (
                row,
                Trace(tuple(row.canvas[: row.answer_start].tolist())),
            )
        elif action == "abort" and request_of and data.draw(st.integers(0, 9)) == 0:
            request = data.draw(st.sampled_from(sorted(request_of)))
            assert server.abort(request) == (request not in ended)
            assert not server.abort(request)
            if request not in ended:
                ended.add(request)
                del traces[request]
        else:
            for event in server.step():
                assert event.row not in ended
                traces[event.row].add(event)  # type: ignore[arg-type]
                if isinstance(event, FinishEvent):
                    ended.add(event.row)
    for request, trace in traces.items():
        same(trace, alone(lm, request_of[request]))
    stats = server.stats
    assert (stats.waiting, stats.running, stats.failed) == (0, 0, 0)
    assert stats.finished == len(traces) and stats.finished + stats.aborted == len(request_of)


@pytest.fixture(scope="module")
def pocket() -> LM:
    return load("pocket")


@pytest.mark.slow
def test_the_embedded_model_answers_as_alone(pocket: LM) -> None:
    prompts = ["What is the capital of Peru and the language of Japan?", "7 + 8 =", "Sort: 3 1 2"]
    configs = [
        GenerationConfig(
            decoder=decoder, cache=policy, gen_length=24 + 4 * i, temperature=0.5 * (i % 2), seed=i
        )
        for i, (decoder, policy) in enumerate(
            (d, c) for d in ("credit", "klass", "edit") for c in ("none", "dual", "prefix")
        )
    ]
    requests = [
        pocket.new_requests([prompts[i % 3]], config)[0] for i, config in enumerate(configs)
    ]
    server = engine(pocket, 5)
    traces = {server.submit(row): Trace(()) for row in requests}
    while server.busy:
        for event in server.step():
            traces[event.row].add(event)  # type: ignore[arg-type]
    for row, trace in zip(requests, traces.values()):
        same(trace, alone(pocket, row))
    stats = server.stats
    assert stats.forwards < stats.passes == sum(trace.nfe for trace in traces.values())
    assert stats.positions == sum(
        step.computed for trace in traces.values() for step in trace.steps
    )
    assert stats.tokens == sum(len(trace.tokens) for trace in traces.values())
    assert stats.padding == stats.idle == 0, "unlike rows share every pass, without padding"
    assert stats.cache_bytes > 0


def test_streams_drive_each_other_and_a_consumer_may_leave(pocket: LM) -> None:
    row = pocket.new_requests(["What is the capital of Peru?"], GenerationConfig(gen_length=24))[0]
    server = engine(pocket)
    other = server.submit(row)
    one, two = server.stream(row), server.stream(dataclasses.replace(row, decoder=resolve("fixed")))
    next(two)
    own_events = [*one]
    assert isinstance(own_events[-1], FinishEvent) and {event.row for event in own_events} == {2}
    two.close()
    assert server.stats.aborted == 1
    left = server.step()
    while server.busy:
        left += server.step()
    assert {event.row for event in left} == {other}, "those of streams are not handed out twice"
    assert [e.committed for e in left if isinstance(e, StepEvent)] == [
        e.committed for e in own_events if isinstance(e, StepEvent)
    ]
    assert server.step() == [] and not server.busy


def test_a_full_queue_and_a_request_too_large_are_refused_with_figures(pocket: LM) -> None:
    row = pocket.new_requests(
        ["What is the capital of Peru?"], GenerationConfig(gen_length=24, cache="dual")
    )[0]
    server = engine(pocket, batch_size=2, max_waiting=3)
    for _ in range(5):
        server.submit(row)
    with pytest.raises(QueueFullError, match="got 4; allowed: 3"):
        server.submit(row)
    assert server.abort(4) and server.submit(row) == 5
    small = engine(pocket, memory=1e-4)
    with pytest.raises(OptionError, match=r"KiB .* of 104\.\d KiB") as caught:
        small.submit(row)
    assert not isinstance(caught.value, QueueFullError) and not small.busy


def test_a_cached_block_shares_its_pass_with_a_canvas(pocket: LM) -> None:
    """Of eight rows one computes its whole canvas at every pass: the seven others' rows stay as
    wide as their blocks, packed in the same pass, or padded in passes of their own.
    """
    config = GenerationConfig(gen_length=96, block_length=8, decoder="fixed", early_stop=False)
    prompt = ["What is the capital of Peru and the language of Japan?"]
    for packs in (True, False):
        server = engine(pocket)
        server.model.is_compiled = not packs  # type: ignore[attr-defined]
        server.submit(pocket.new_requests(prompt, config)[0])
        for _ in range(7):
            server.submit(pocket.new_requests(prompt, dataclasses.replace(config, cache="dual"))[0])
        widths: dict[int, set[int]] = {}
        passes = Counter[int]()
        for _ in range(15):
            for event in server.step():
                assert isinstance(event, StepEvent)
                widths.setdefault(event.forward, set()).add(event.computed)
                passes[event.row] += 1
        canvas = max(max(width) for width in widths.values())
        assert server.stats.padding == 0
        assert ({8, canvas} if packs else {8}) in widths.values()
        assert all(len(width) == 1 for width in widths.values()) or packs
        assert max(passes.values()) - min(passes.values()) <= 1, "a pass in every round"
        assert (server.stats.idle == 0) == packs
    server.model.is_compiled = False  # type: ignore[attr-defined]
