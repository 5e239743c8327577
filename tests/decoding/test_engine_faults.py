"""When a model, a rule or the memory fails under the engine: one request ends and says why, the
others lose nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from creditdecoding.config import EngineConfig, GenerationConfig, ServeConfig
from creditdecoding.decoders import resolve
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request
from creditdecoding.lm import LM, load
from creditdecoding.models import memory
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.trace import FailEvent, FinishEvent

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
ASKED = [
    "What is the capital of Peru?",
    "7 + 8 =",
    "What is the capital of Peru and the language of Japan? Say it in one word.",
]


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


def rows_of(
    lm: LM, caches: tuple[str, ...] = ("dual", "none", "prefix"), **options: Any
) -> list[Request]:
    config = GenerationConfig(
        **{"gen_length": 24, "block_length": 8, "decoder": "credit", **options}
    )
    return [
        lm.new_requests([ASKED[i % 3]], dataclasses.replace(config, cache=cache))[0]
        for i, cache in enumerate(caches)
    ]


def answers(lm: LM, rows: list[Request]) -> list[tuple[int, ...]]:
    """What each row gets alone."""
    return [
        event.tokens
        for row in rows
        for event in denoise(lm.model, [row], lm.vocab, lm.device)
        if isinstance(event, FinishEvent)
    ]


def drive(engine: Engine, rows: list[Request]) -> dict[int, FinishEvent | FailEvent]:
    """Submit all, step to the end: how each ended."""
    for row in rows:
        engine.submit(row)
    ends: dict[int, FinishEvent | FailEvent] = {}
    while engine.busy:
        for event in engine.step():
            assert event.row not in ends, "an event behind the end"
            if isinstance(event, (FinishEvent, FailEvent)):
                ends[event.row] = event
    return ends


class Wrapped:
    """The embedded model behind a check that may raise; `limit` positions of a pass, `slots` places
    of its cache.
    """

    def __init__(self, lm: LM, limit: int | None = None, slots: int = 99) -> None:
        self.model, self.limit, self.slots, self.geometry = lm.model, limit, slots, lm.geometry
        self.refused = 0

    def __call__(
        self, tokens: Tensor, read: Any, allowed: Tensor | None = None, **more: Any
    ) -> Tensor:
        if self.limit is not None and tokens.numel() > self.limit:
            self.refused += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return self.model(tokens, read, allowed, **more)

    def new_cache(self) -> KVCache:
        cache: KVCache = self.model.new_cache()  # type: ignore[attr-defined]
        grow = cache.resize

        def resize(slots: int, columns: int) -> None:
            if slots > self.slots:
                self.refused += 1
                raise RuntimeError(
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
                )
            grow(slots, columns)

        cache.resize = resize  # type: ignore[method-assign]
        return cache


def with_a_broken_id(token: int) -> LM:
    """The embedded model, for which reading one id gives no number."""
    broken = load("pocket")
    model: Any = broken.model
    model.head = torch.nn.Linear(*reversed(model.embed.weight.shape), bias=False)
    with torch.no_grad():
        model.head.weight.copy_(model.embed.weight)
        model.embed.weight[token] = torch.nan
    return broken


# Not a number
# ---------


@pytest.mark.parametrize("guided", [0.0, 1.0])
def test_a_row_of_nan_ends_alone_and_its_place_is_clean(guided: float, lm: LM) -> None:
    """An id with a broken embedding: at the first pass for a row that has it in its prompt. Later
    rows take its places in the cache.
    """
    long, *others = rows_of(lm, ("dual", "none", "prefix", "every:n=3", "dual"), cfg_scale=guided)
    poison = next(
        i
        for i in range(lm.vocab.size)
        if all(i not in row.canvas for row in [long, *others]) and i not in lm.vocab.stop_ids
    )
    expected = answers(lm, others)
    assert not any(poison in tokens for tokens in expected)
    broken = with_a_broken_id(poison)
    bad = lm.new_requests([ASKED[2]], dataclasses.replace(long.config, cache="dual"))[0]
    bad = dataclasses.replace(bad, canvas=bad.canvas.clone())
    bad.canvas[2] = poison
    engine = Engine(broken.model, lm.vocab, lm.device, EngineConfig(batch_size=3))
    ends = drive(engine, [bad, *others[:3], bad, others[3]])
    failed = [ends[0], ends[4]]
    assert all(
        isinstance(end, FailEvent)
        and end.reason == "model"
        and "not numbers" in end.error
        and "\n" not in end.error
        for end in failed
    )
    assert [ends[i].tokens for i in (1, 2, 3, 5)] == expected  # type: ignore[union-attr]
    assert (engine.stats.failed, engine.stats.finished) == (2, 4)


def test_a_token_that_breaks_the_model_once_written(lm: LM) -> None:
    """Not the first pass but a later one: what was stored and decided before does not count."""
    rows = rows_of(lm, decoder="fixed")
    expected = answers(lm, rows)
    odd = next(
        t
        for t in expected[1]
        if t not in {*expected[0], *expected[2]} and all(t not in row.canvas for row in rows)
    )
    ends = drive(Engine(with_a_broken_id(odd).model, lm.vocab, lm.device), rows)
    assert isinstance(ends[1], FailEvent) and [ends[i].tokens for i in (0, 2)] == [
        expected[0],
        expected[2],
    ]  # type: ignore[union-attr]


def test_a_model_that_says_nothing_but_nan_ends_everyone_and_the_engine_lives(lm: LM) -> None:
    broken = load("pocket")
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.nan)  # type: ignore[attr-defined]
    engine = Engine(broken.model, lm.vocab, lm.device, EngineConfig(batch_size=2))
    ends = drive(engine, rows_of(lm, ("dual",) * 5))
    assert len(ends) == 5 and all(isinstance(end, FailEvent) for end in ends.values())
    assert not engine.busy and engine.stats.running == 0


# Other errors
# ---------


@dataclasses.dataclass(frozen=True)
class Brittle:
    """A rule that breaks at its third step."""

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        if bool((block.step == 2).any()):
            raise ValueError("no such\nluck")
        return resolve("fixed").step(prediction, block, state)


def test_a_rule_that_raises_ends_its_row_alone(lm: LM) -> None:
    rows = rows_of(lm, ("none", "dual", "prefix", "dual", "none"))
    expected = answers(lm, rows)
    rows[1:3] = [dataclasses.replace(row, decoder=Brittle()) for row in rows[1:3]]
    ends = drive(Engine(lm.model, lm.vocab, lm.device), rows)
    for i, end in ends.items():
        if i in (1, 2):
            assert (
                isinstance(end, FailEvent)
                and end.reason == "error"
                and "ValueError: no such luck" in end.error
            )
        else:
            assert end.tokens == expected[i]  # type: ignore[union-attr]


def test_a_stream_of_a_row_that_fails_ends_with_why(lm: LM) -> None:
    *steps, end = Engine(lm.model, lm.vocab, lm.device).stream(
        dataclasses.replace(rows_of(lm)[0], decoder=Brittle())
    )
    assert len(steps) == 2 and isinstance(end, FailEvent)


# Memory
# ---------


@pytest.mark.parametrize("limit", [50, 150])
def test_a_pass_too_large_is_split_and_later_ones_are_smaller(limit: int, lm: LM) -> None:
    """A row too large alone ends; the others have the answers they have alone, and the engine does
    not run into the limit at every pass.
    """
    rows = rows_of(
        lm,
        ("dual", "none", "prefix", "dual", "none", "none", "none", "dual"),
        gen_length=20,
        decoder="fixed",
    )
    large = [i for i, row in enumerate(rows) if len(row.canvas) > limit]
    model = Wrapped(lm, limit)
    ends = drive(engine := Engine(model, lm.vocab, lm.device), rows)
    for i, end in ends.items():
        if i in large:
            assert (
                isinstance(end, FailEvent)
                and end.reason == "memory"
                and "memory ran out" in end.error
            )
        else:
            assert end.tokens == answers(lm, [rows[i]])[0]  # type: ignore[union-attr]
    assert bool(large) == (limit == 50) and model.refused < engine.stats.forwards / 4, model.refused
    limit, model.limit = 0, None
    assert isinstance(drive(engine, rows[:1])[8], FinishEvent)


def test_a_cache_that_cannot_grow_sends_rows_back_to_wait(lm: LM) -> None:
    rows = rows_of(lm, ("dual", "prefix", "every:n=2", "none", "dual"))
    expected = answers(lm, rows)
    ends = drive(engine := Engine(Wrapped(lm, slots=2), lm.vocab, lm.device), rows)
    assert [ends[i].tokens for i in range(5)] == expected  # type: ignore[union-attr]
    assert engine.stats.failed == 0
    (end,) = drive(Engine(Wrapped(lm, slots=0), lm.vocab, lm.device), rows[:1]).values()
    assert isinstance(end, FailEvent) and end.reason == "memory"


def test_rows_stay_within_the_memory_that_was_given(lm: LM) -> None:
    """Short rows in many places, then a long one in few: the cache changes its shape instead of
    holding both.
    """
    short = rows_of(lm, ("dual",) * 6)
    long = lm.new_requests(
        [ASKED[2] * 3],
        GenerationConfig(gen_length=64, block_length=16, cache="prefix", decoder="fixed:k=4"),
    )[0]
    rows = [*short, long, *short]
    probe = Engine(lm.model, lm.vocab, lm.device)
    probe.submit(long)
    probe.step()
    most = int(1.3 * probe.stats.admitted_bytes)
    engine = Engine(lm.model, lm.vocab, lm.device, serve=ServeConfig(memory=most / 2**30))
    for row in rows:
        engine.submit(row)
    ends, shapes, most_running = {}, set(), 0
    while engine.busy:
        for event in engine.step():
            if isinstance(event, FinishEvent):
                ends[event.row] = event.tokens
        stats = engine.stats
        working = stats.admitted_bytes - min(stats.admitted_bytes, stats.cache_bytes)
        assert stats.cache_bytes + working <= most + 4096 and stats.memory_limit is not None
        shapes.add(stats.cache_bytes)
        most_running = max(most_running, stats.running)
    assert [ends[i] for i in range(len(rows))] == answers(lm, rows)
    assert len(shapes) == 2 and most_running >= 3, (  # counted after a pass, when some have ended
        "four places of 64 columns, or one of 192, never four of 192"
    )


def test_by_default_four_fifths_of_what_is_free(lm: LM) -> None:
    def stats(free: memory.FreeBytes) -> int | None:
        return Engine(lm.model, lm.vocab, lm.device, free_memory=free).stats.memory_limit

    assert stats(lambda device: 1000) == 800 and stats(lambda device: None) is None


@pytest.mark.parametrize(
    "decoder, gen_length", [("credit", 32), ("credit_full", 128), ("klass", 64), ("wino", 96)]
)
def test_the_estimate_bounds_what_a_pass_allocates_and_is_not_far_from_it(
    decoder: str, gen_length: int
) -> None:
    """Without caches what rows are reckoned to take is activations, logits and state."""
    lm = load("pocket-v1")  # needs more than one pass for each row, so all still count after it
    rows = rows_of(lm, ("none",) * 4, decoder=decoder, gen_length=gen_length, block_length=32)
    engine = Engine(lm.model, lm.vocab, lm.device)
    for row in rows:
        engine.submit(row)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        engine.step()
        most = engine.stats.admitted_bytes
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())  # type: ignore[union-attr]
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert most / 3 < max(itertools.accumulate(sizes)) <= most
