"""Long rows of models with full attention: their passes are cut, so that no stream waits for one,
and everyone gets what it gets alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.cut_pass import can_cut_pass
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.pass_plan import DEFAULT_POSITIONS, PREFILL_CHUNK
from creditdecoding.decoding.request import Request
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import FailEvent, FinishEvent, StepEvent, Trace
from tests.helpers.tiny_networks import CPU, WORDS, network, rows_of, traces

torch.set_num_threads(1)
SHORT = [[1, 2, 3], [4], [9, 8]]


def ids(count: int, first: int = 0) -> list[int]:
    return [(first + 5 * i) % 37 for i in range(count)]


class Run:
    """An engine, what it said of each request, and how much it computed, in positions of a whole
    network: each product of a layer counts as its share of the weights.
    """

    def __init__(self, model: Transformer, limit: int | None = None, **serve: Any) -> None:
        config = EngineConfig(batch_size=8, max_num_batched_tokens=limit)
        self.engine = Engine(model, WORDS, CPU, config, ServeConfig(**serve))
        self.traces: dict[int, Trace] = {}
        self.failed: dict[int, FailEvent] = {}
        self.work = 0.0
        linear = [part for part in model.layers.modules() if isinstance(part, nn.Linear)]
        self._weights = sum(part.weight.numel() for part in linear)
        for part in linear:
            part.register_forward_hook(self._note)

    def _note(self, layer: Any, args: tuple[Any, ...], _: Any) -> None:
        rows = args[0].shape[:-1].numel()
        self.work += rows * layer.weight.numel() / self._weights

    def submit(self, rows: Sequence[Request]) -> list[int]:
        numbers = [self.engine.submit(row) for row in rows]
        self.traces |= {number: Trace(()) for number in numbers}
        return numbers

    def step(self) -> set[int]:
        """Whose steps were taken."""
        stepped = set()
        for event in self.engine.step():
            if isinstance(event, FailEvent):
                self.failed[event.row] = event
                continue
            self.traces[event.row].add(event)
            stepped |= {event.row} if isinstance(event, StepEvent) else set()
        return stepped

    def suspend(self) -> int:
        """Step until the pass of a long row is suspended, and return whose."""
        while self.engine._cut_pass._parts is None:
            assert self.engine.busy
            self.step()
        number = self.engine._cut_pass.number
        assert number is not None
        return number

    def finish(self) -> list[Trace]:
        while self.engine.busy:
            self.step()
        return list(self.traces.values())


def same(ours: Trace, model: Transformer, row: Request) -> None:
    """Steps and end are those of the row alone, up to rounding."""
    (expected,) = traces(model, [dataclasses.replace(row, index=0)])
    steps = [
        [(s.block, s.step, s.positions, s.tokens, s.committed, s.computed) for s in trace.steps]
        for trace in (ours, expected)
    ]
    assert steps[0] == steps[1]
    assert ours.finish is not None and expected.finish is not None
    assert (ours.tokens, ours.finish.reason) == (expected.tokens, expected.finish.reason)
    for a, b in zip(ours.steps, expected.steps):
        assert a.confidence == pytest.approx(b.confidence, abs=1e-4)


@pytest.mark.parametrize("kind", ["full", "shifted"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize(
    "options",
    [
        {"decoder": "credit"},
        {"decoder": "fixed:k=3", "temperature": 0.7, "seed": 5},
        {"decoder": "klass", "cfg_scale": 1.0},
        {"decoder": "edit", "temperature": 0.5, "top_k": 5},
    ],
)
def test_everyone_gets_what_it_gets_alone(kind: str, cache: str, options: dict[str, Any]) -> None:
    model = network(kind)
    short = rows_of(model, SHORT, decoder="fixed", gen_length=24, block_length=8, cache=cache)
    long = rows_of(
        model, [ids(200), ids(150, 3)], gen_length=16, block_length=8, cache=cache, **options
    )
    run = Run(model, limit=96)
    run.submit(short[:2])
    run.step()
    run.submit(long)
    run.suspend()
    run.submit(short[2:])
    for trace, row in zip(run.finish(), [*short[:2], *long, *short[2:]]):
        same(trace, model, row)


def test_leave_one_out_columns_are_columns_of_parts() -> None:
    model = network("full")
    (long,) = rows_of(model, [ids(150)], gen_length=16, block_length=8, decoder="wino")
    (short,) = rows_of(model, [[1]], gen_length=24, decoder="fixed")
    run = Run(model, limit=96)
    run.submit([short, long])
    assert run.suspend() == 1
    for trace, row in zip(run.finish(), [short, long]):
        same(trace, model, row)


@pytest.mark.parametrize(("cache", "guided"), [("none", 0.0), ("dual", 0.0), ("none", 1.0)])
def test_a_stream_waits_for_a_chunk_of_work_at_most(cache: str, guided: float) -> None:
    """Beside a prompt of 2,000 ids, and a second one that comes later."""
    model = network("full")
    short = rows_of(model, [*SHORT, [7]], decoder="fixed", gen_length=120)
    long = rows_of(
        model, [ids(2000), ids(1900)], decoder="fixed", gen_length=16, cache=cache, cfg_scale=guided
    )
    run = Run(model)
    run.submit(short)
    run.step()
    numbers = run.submit(long[:1])
    waited, most, turns = 0.0, 0.0, 0
    while run.engine.stats.running > 1 and turns < 100:
        before = run.work
        stepped = run.step()
        waited += run.work - before
        turns += 1
        if stepped and not stepped <= {*numbers}:
            most, waited = max(most, waited), 0.0
        if run.traces[numbers[0]].steps and len(numbers) == 1:
            numbers += run.submit(long[1:])
    streams = sum(len(row.canvas) for row in short)
    assert PREFILL_CHUNK / 2 < most <= PREFILL_CHUNK + streams
    assert len(run.traces[numbers[0]].steps) > 1


def test_a_short_row_that_comes_late_does_not_wait_for_the_pass_either() -> None:
    model = network("full")
    rows = rows_of(model, [[1], ids(900)], decoder="fixed", gen_length=24, cache="dual")
    run = Run(model, limit=96)
    run.submit(rows)
    assert run.suspend() == 1
    assert not run.traces[1].steps
    run.submit(rows_of(model, [[3]], gen_length=8))
    before = run.work
    while not run.traces[2].steps:
        run.step()
    assert run.work - before <= 2 * (96 + 50)
    assert not run.traces[1].steps, "its pass still goes on"


def test_an_abort_forgets_the_pass_and_its_slot_is_free() -> None:
    model = network("full")
    options = {"gen_length": 24, "block_length": 8, "cache": "dual", "decoder": "fixed"}
    short = rows_of(model, SHORT, **options)
    (long, other) = rows_of(model, [ids(200), ids(170, 3)], **options)
    run = Run(model, limit=96)
    run.submit([short[0], long, short[1]])
    assert run.suspend() == 1
    assert run.engine.abort(1)
    assert run.engine._cut_pass.number is None
    del run.traces[1]
    run.submit([other, short[2]])
    for trace, row in zip(run.finish(), [short[0], short[1], other, short[2]]):
        same(trace, model, row)
    assert run.engine.stats.aborted == 1


def test_slots_and_buffers_may_move_while_a_pass_is_suspended() -> None:
    """The row before it ends, so that its slot moves, and longer ones come, so that the cache
    grows.
    """
    model = network("full")
    options = {"block_length": 8, "cache": "dual", "decoder": "fixed"}
    (first,) = rows_of(model, [[1]], gen_length=16, **options)
    (long,) = rows_of(model, [ids(300)], gen_length=24, **options)
    late = rows_of(model, [ids(60, 2), ids(500, 1), [6]], gen_length=24, **options)
    run = Run(model, limit=64)
    run.submit([first, long])
    assert run.suspend() == 1
    slots, columns = set(), set()
    while not run.traces[1].steps:
        if run.traces[0].finish is not None and late:
            run.step()
            run.submit([late.pop(0)])
        run.step()
        slots.add(run.engine._running[1].cache_slot)
        columns.add(run.engine._cache.columns)  # type: ignore[union-attr]
    assert len(slots) > 1 and len(columns) > 1
    rows = [first, long, *rows_of(model, [ids(60, 2), ids(500, 1), [6]], gen_length=24, **options)]
    for trace, row in zip(run.finish(), rows):
        same(trace, model, row)


def test_two_long_rows_alone_have_whole_passes() -> None:
    model = network("full")
    long = rows_of(model, [ids(700), ids(600)], decoder="fixed", gen_length=8)
    run = Run(model)
    run.submit(long)
    assert run.step() == {0, 1}, "they share a pass, as always"
    for trace, row in zip(run.finish(), long):
        same(trace, model, row)


def test_where_no_row_is_short_those_longer_than_a_pass_are_cut() -> None:
    model = network("full")
    rows = rows_of(model, [ids(600), ids(DEFAULT_POSITIONS)], decoder="fixed", gen_length=8)
    run = Run(model)
    run.submit(rows)
    most = 0.0
    while 0 in run.engine._running:
        before = run.work
        run.step()
        most = max(most, run.work - before)
    assert most < 650
    for trace, row in zip(run.finish(), rows):
        same(trace, model, row)


def test_a_pass_that_is_left_alone_is_finished_first() -> None:
    model = network("full")
    (short,) = rows_of(model, [[1]], decoder="fixed", gen_length=8)
    long = rows_of(model, [ids(300), ids(250, 2)], decoder="fixed", gen_length=8)
    run = Run(model, limit=64)
    run.submit([short, *long])
    number = run.suspend()
    assert run.engine.abort(0)
    steps = [run.step() for _ in range(8)]
    assert next(stepped for stepped in steps if stepped) == {number}
    for trace, row in zip(run.finish()[1:], long):
        same(trace, model, row)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("broken"), None])
def test_a_pass_that_fails_ends_its_own_row(error: Exception | None) -> None:
    model = network("full")
    rows = rows_of(model, [[1], ids(200)], decoder="fixed", gen_length=40, cache="dual")
    run = Run(model, limit=96)
    run.submit(rows)
    assert run.suspend() == 1

    def fail(_: Any, args: tuple[Any, ...], output: Any) -> Any:
        if args[0].shape[1] < 60:  # what the short row computes
            return output
        if error is not None:
            raise error
        return torch.full_like(output, torch.nan)

    handle = model.layers[1].o.register_forward_hook(fail)
    while 1 in run.engine._running:
        run.step()
    handle.remove()
    assert run.failed[1].reason == {MemoryError: "memory", ValueError: "error"}.get(
        type(error), "model"
    )
    assert run.engine._cut_pass.number is None
    same(run.finish()[0], model, rows[0])


def test_what_stays_whole() -> None:
    (long,) = rows_of(network("full"), [ids(700)])
    assert can_cut_pass(network("full"), long)
    assert not can_cut_pass(lambda *_: torch.zeros(1, 48), long), "a callable of one's own"
    compiled = network("full")
    compiled.is_compiled = True
    assert not can_cut_pass(compiled, long)
    model = network("blocks")
    (uncached,) = rows_of(model, [ids(700)], cache="none")
    assert not can_cut_pass(model, uncached), "its attention is in pieces, planned for the row"


def test_a_row_that_stays_whole_takes_turns_of_whole_passes() -> None:
    model = network("blocks")
    long = rows_of(model, [ids(200)], cache="none", gen_length=8, decoder="fixed")
    short = rows_of(model, SHORT, gen_length=40, decoder="fixed")
    run = Run(model, limit=96)
    run.submit([*long, *short])
    for trace, row in zip(run.finish(), [*long, *short]):
        assert isinstance(trace.finish, FinishEvent)
        same(trace, model, row)
