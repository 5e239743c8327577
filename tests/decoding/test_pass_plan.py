"""Who shares a pass: long prompts in chunks, long rows in turn, no pass above its budget."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.pass_plan import LongRowTurns, PassLimits
from creditdecoding.decoding.request import Request
from creditdecoding.models.packed_rows import PackedRows
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import FinishEvent, StepEvent, Trace
from tests.helpers.tiny_networks import CPU, WORDS, network, rows_of, same, traces

torch.set_num_threads(1)
PROMPT = [i % 37 for i in range(200)]


class Watched:
    """An engine whose passes are noted: positions computed, and keys attended to by all queries of
    a layer.
    """

    def __init__(self, model: Transformer, limit: int | None = None, **serve: Any) -> None:
        config = EngineConfig(batch_size=32, max_num_batched_tokens=limit)
        self.engine = Engine(model, WORDS, CPU, config, ServeConfig(**serve))
        self.traces: dict[int, Trace] = {}
        self.forwards: list[set[int]] = []
        self.positions: list[int] = []
        self.keys: list[int] = []
        model.layers[0].register_forward_pre_hook(self._note)

    def _note(self, _: Any, args: tuple[Any, ...]) -> None:
        x, mask = args[0], args[3]
        self.positions.append(x.shape[0] * x.shape[1])
        if isinstance(mask, PackedRows):
            self.keys.append(sum(call.rows * call.count * call.visible for call in mask.calls))

    def submit(self, rows: Sequence[Request]) -> None:
        for row in rows:
            self.traces[self.engine.submit(row)] = Trace(())

    def step(self) -> None:
        events = self.engine.step()
        for event in events:
            assert isinstance(event, (StepEvent, FinishEvent)), event
            self.traces[event.row].add(event)
        self.forwards.append({event.row for event in events if isinstance(event, StepEvent)})

    def run(self) -> list[Trace]:
        while self.engine.busy:
            self.step()
        return list(self.traces.values())


@pytest.mark.parametrize("guided", [0.0, 1.0])
def test_a_long_prompt_enters_in_chunks_beside_steps(guided: float) -> None:
    """Running requests are in every pass, no pass is above the budget, and the answer is the same."""
    model = network("blocks")
    short = rows_of(model, [[1, 2, 3], [4], [9, 8]], decoder="fixed", gen_length=40)
    (long,) = rows_of(model, [PROMPT], gen_length=16, cfg_scale=guided)
    expected = traces(model, [long])[0]
    watched = Watched(model, limit=96)
    watched.submit(short)
    watched.step()
    watched.submit([long])
    while not watched.traces[3].steps:
        watched.step()
    pairs = zip(watched.forwards, watched.forwards[1:])
    assert all({0, 1, 2} <= one | other for one, other in pairs), "they wait for a chunk at most"
    assert max(watched.positions) <= 96
    watched.run()
    same(watched.traces[3], expected)
    assert watched.traces[3].prefill_passes == watched.engine.stats.prefill_passes >= 2
    computed = [sum(step.computed for step in t.steps) for t in (watched.traces[3], expected)]
    assert computed[0] == computed[1], "every position of the prompt is computed once"


def test_a_prompt_alone_takes_as_few_passes_as_memory_allows() -> None:
    model = network("blocks")
    long, short = rows_of(model, [PROMPT * 5, [1, 2]], gen_length=8)
    (trace,) = _run_alone(model, long)
    assert trace.prefill_passes == 0 and trace.steps[0].computed == 1008
    assert _run_alone(model, long, limit=256)[0].prefill_passes == 3
    probe = Engine(model, WORDS, CPU)
    footprint = probe._footprint
    columns = 1024 + 1
    enough = probe.memory_bytes(long) + 100 * footprint.computed
    (trace,) = _run_alone(model, long, memory=enough / 2**30)
    assert trace.prefill_passes == 1, "612 positions, then the others"
    assert probe.memory_bytes(long) < columns * footprint.cached + 1008 * footprint.computed
    assert trace.tokens == _run_alone(model, long)[0].tokens
    assert probe.memory_bytes(short) < probe.memory_bytes(long)


def _run_alone(model: Transformer, row: Request, **options: Any) -> list[Trace]:
    watched = Watched(model, **options)
    watched.submit([dataclasses.replace(row, index=0)])
    return watched.run()


def test_memory_that_runs_out_in_a_prompt_cuts_it() -> None:
    model = network("blocks")
    (long,) = rows_of(model, [PROMPT], gen_length=8)
    expected = traces(model, [long])[0].tokens

    class Small(Transformer):
        def forward(self, tokens: Any, *args: Any, **more: Any) -> Any:
            if tokens.numel() > 100:
                raise MemoryError
            return super().forward(tokens, *args, **more)

    model.__class__ = Small
    (trace,) = _run_alone(model, long)
    assert trace.tokens == expected and 2 <= trace.prefill_passes <= 5


def test_rows_together_attend_to_no_more_than_apart() -> None:
    """Short rows beside one with many stored columns: neither a position nor a key more."""
    model = network("blocks")
    short = rows_of(model, [[i] for i in range(4)], decoder="fixed", gen_length=40)
    long = rows_of(model, [PROMPT], decoder="fixed", gen_length=40)
    costs = []
    for rows in (short, long, [*short, *long]):
        watched = Watched(model, limit=4096)
        watched.submit([dataclasses.replace(row, index=i) for i, row in enumerate(rows)])
        for _ in range(12):
            watched.step()
        packed = watched.keys[-1] if len(rows) > 4 else None
        costs.append((watched.positions[-1], packed))
    assert costs[2][0] == costs[0][0] + costs[1][0]
    visible = [row.block_position.length for row in watched.engine._running.values()]
    assert costs[2][1] == sum(8 * length for length in visible)
    assert watched.engine.stats.padding == 0


@pytest.mark.parametrize("kind", ["full", "blocks"])
def test_staggered_clients_need_few_passes_more_than_a_burst(kind: str) -> None:
    model = network(kind)
    rows = rows_of(
        model, [PROMPT[i : 2 * i + 3] for i in range(32)], decoder="fixed", gen_length=16
    )
    passes = []
    for at_a_time in (32, 4):
        watched = Watched(model)
        for start in range(0, 32, at_a_time):
            watched.submit(rows[start : start + at_a_time])
            watched.step()
        watched.run()
        passes.append(watched.engine.stats.forwards)
    assert passes[1] <= 1.5 * passes[0], passes


def test_a_row_that_cannot_be_cut_takes_turns_with_shorter_ones() -> None:
    model = network("full")
    (long,) = rows_of(model, [PROMPT], gen_length=40)
    short = rows_of(model, [[1], [2], [3], [4]], gen_length=36)
    rows = [dataclasses.replace(row, index=i) for i, row in enumerate([long, *short])]
    limits = PassLimits(chunk=100)
    turns = LongRowTurns()
    rounds = [0 in {row.index for row in turns.due(rows, limits)[0]} for _ in range(9)]
    assert rounds == [False, False, True] * 3, "240 positions of the long row, 4 x 37 a round else"
    assert turns.due(rows[:1], limits) == (rows[:1], None)
    assert turns.due(rows[1:], limits) == (rows[1:], None)
    in_parts = LongRowTurns(cuts_pass=lambda row: True)
    rounds = [in_parts.due(rows, limits)[1] is rows[0] for _ in range(8)]
    assert rounds == [False, True] * 4, "80 positions of its pass are a turn"
    watched = Watched(model, limit=100)
    watched.submit(rows)
    watched.run()
    assert [t.tokens for t in watched.traces.values()] == [
        t.tokens for row in rows for t in traces(model, [row])
    ]
    assert max(len(rows) for rows in watched.forwards if 0 in rows) == 1, "its passes are its own"


def test_the_plain_engine_without_packing_cuts_prompts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transformer, "packs_rows", False)
    model = network("shifted blocks")
    rows = rows_of(model, [PROMPT, [1, 2], PROMPT[5:], [3]], gen_length=16)
    watched = Watched(model, limit=64)
    watched.submit(rows)
    ours = watched.run()
    for trace, row in zip(ours, rows):
        same(trace, traces(model, [row])[0])
    assert ours[0].prefill_passes > 2 < ours[2].prefill_passes


def test_the_plain_loop_keeps_the_budget() -> None:
    model = network("blocks")
    rows = rows_of(model, [PROMPT, [1, 2], [3]], gen_length=16)
    events = [*denoise(model, rows, WORDS, CPU, 16, max_positions=64)]
    positions = Counter[int]()
    for event in events:
        if isinstance(event, StepEvent):
            positions[event.forward] += event.computed * (not event.prefill)
    ends = {event.row: event.tokens for event in events if isinstance(event, FinishEvent)}
    assert [ends[i] for i in range(3)] == [traces(model, [row])[0].tokens for row in rows]
    assert max(positions.values()) <= 64
