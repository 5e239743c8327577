"""Beginnings of prompts that are computed once: the same tokens as without, fewer positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from creditdecoding.config import EngineConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.prefix_cache import PrefixCache
from creditdecoding.decoding.request import Request
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import FinishEvent, StepEvent, Trace
from tests.helpers.tiny_networks import CPU, WORDS, network, rows_of, same, traces

torch.set_num_threads(1)
SHARED = [i % 37 for i in range(100)]
KINDS = ("blocks", "shifted blocks")


def run(engine: Engine, rows: list[Request]) -> list[Trace]:
    """The traces of rows that are submitted together."""
    trace_of = {engine.submit(row): Trace(()) for row in rows}
    while engine.busy:
        for event in engine.step():
            assert isinstance(event, (StepEvent, FinishEvent)), event
            trace_of[event.row].add(event)
    return list(trace_of.values())


def engine_of(model: Transformer, **options: Any) -> Engine:
    return Engine(model, WORDS, CPU, EngineConfig(**options))


def computed(trace: Trace) -> int:
    return sum(step.computed for step in trace.steps)


@pytest.mark.parametrize("decoder", ["credit:threshold=0.4", "fixed:k=2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_beginning_is_computed_once(kind: str, decoder: str) -> None:
    """By requests that come later and by such that come together."""
    model = network(kind)
    prompts = [[*SHARED, i, 3, i] for i in range(3)] + [[5, *SHARED]]
    rows = rows_of(model, prompts, decoder=decoder, gen_length=16)
    expected = [traces(model, [row])[0] for row in rows]
    engine = engine_of(model)
    ours = run(engine, rows[:1]) + run(engine, rows[1:])
    together = run(engine_of(model), rows)
    for results in (ours, together):
        for trace, plain in zip(results, expected):
            same(trace, plain)
            reused = sum(step.reused for step in trace.steps)
            again = int(
                kind == "shifted blocks" and reused > 0
            )  # the first prediction is read there
            assert computed(trace) + reused == computed(plain) + again
        assert [t.steps[0].reused for t in results] == [0, 96, 96, 0]
    assert engine.stats.reused == 192


def test_the_turns_of_a_chat_take_over_the_answers_before() -> None:
    model = network("blocks")
    prefixes = PrefixCache(2**20)
    history = SHARED[:50]
    for turn in range(3):
        (row,) = rows_of(model, [history], gen_length=40)
        trace = Trace(())
        for event in denoise(model, [row], WORDS, CPU, prefixes=prefixes):
            trace.add(event)
        (plain,) = traces(model, [row])
        same(trace, plain)
        pages = (len(history) - 40 - 9) // 32 * 32  # all but the last block of the answer
        assert trace.steps[0].reused >= max(0, pages) * (turn > 0)
        assert (trace.steps[0].reused > 0) == (turn > 0)
        history = [*row.canvas[: len(history)].tolist(), *trace.written.values(), 1, 2, 3]


def test_the_store_is_bounded_and_drops_the_ends_of_old_texts_first() -> None:
    model = network("blocks")
    rows = rows_of(model, [[i, *SHARED[:70]] for i in range(4)], gen_length=8)
    page = 2 * 3 * 2 * 32 * 8 * 4
    prefixes = PrefixCache(3 * page)
    for row in rows:
        list(denoise(model, [row], WORDS, CPU, prefixes=prefixes))
        assert prefixes.nbytes <= 3 * page
    reused = []
    for row in reversed(rows):
        events = [*denoise(model, [row], WORDS, CPU, prefixes=prefixes)]
        reused.append(sum(e.reused for e in events if isinstance(e, StepEvent)))
    assert reused[:2] == [64, 32], "the newest text, and the beginning of the one before"
    tiny = PrefixCache(page - 1)
    list(denoise(model, rows[:1], WORDS, CPU, prefixes=tiny))
    assert tiny.nbytes == 0


def test_changed_weights_and_the_option_empty_it() -> None:
    model = network("blocks")
    rows = rows_of(model, [SHARED], gen_length=8)
    engine = engine_of(model)
    run(engine, rows)
    with torch.no_grad():
        model.layers[0].k.weight.mul_(-1.0)
    (trace,) = run(engine, rows)
    assert trace.steps[0].reused == 0
    same(trace, traces(model, rows)[0])
    off = engine_of(model, prefix_cache=0.0)
    assert [run(off, rows)[0].steps[0].reused for _ in range(2)] == [0, 0]


def test_guided_requests_and_full_attention_share_nothing() -> None:
    for kind, options in (("blocks", {"cfg_scale": 1.0}), ("full", {"cache": "dual"})):
        model = network(kind)
        rows = rows_of(model, [SHARED, SHARED], gen_length=8, **options)
        engine = engine_of(model)
        ours = run(engine, rows) + run(engine, rows)
        assert engine.stats.reused == 0
        for trace in ours:
            same(trace, traces(model, rows[:1])[0])
