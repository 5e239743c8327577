"""Unlike requests in one engine: what they cost together and apart, and who waits for whom.

Counts of passes and positions, but for the two ratios of times, which are medians of interleaved
pairs in processor time of one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bare_passes import RecordedModel
from benchmarks.caches import CPU, VOCABULARY, network
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.request import Request, SpecialTokens, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.trace import StepEvent

WORDS = SpecialTokens(*vars(VOCABULARY).values())
MAX_LENGTH = 16_384


@dataclass(frozen=True)
class TrafficFigure:
    """One figure, and what it is compared with."""

    case: str
    value: float
    unit: str
    compared_with: str


def request_of(
    model: Transformer,
    length: int,
    gen_length: int = 64,
    decoder: str = "fixed",
    cache: str = "auto",
) -> Request:
    """A request with a random prompt of `length` ids; by default one token a pass."""
    generator = torch.Generator().manual_seed(length)
    prompt = torch.randint(3, WORDS.size, (length,), generator=generator).tolist()
    config = GenerationConfig(decoder=decoder, gen_length=gen_length, early_stop=False, cache=cache)
    return new_request(0, prompt, config, WORDS, MAX_LENGTH, model.geometry)


class SteadyBatch:
    """Requests whose prompts are stored, so that a step computes blocks alone."""

    def __init__(self, model: Transformer, lengths: Sequence[int]) -> None:
        self.model = model
        requests = [request_of(model, length) for length in lengths]
        self.requests = [replace(r, index=i, cache_slot=i) for i, r in enumerate(requests)]
        self.cache = model.new_cache()
        self.cache.reserve(len(lengths), max(len(r.canvas) for r in requests))
        self.requests = self.step()

    def step(self) -> list[Request]:
        """The requests after one more pass; they are not kept."""
        return denoise_step(self.model, self.requests, WORDS, CPU, cache=self.cache)[0]


def unlike_rows(model: Transformer, short: int, stored: int, pairs: int) -> TrafficFigure:
    """A step of short rows and a long one together, over both apart."""
    lengths = [40] * short
    batches = [SteadyBatch(model, own) for own in (lengths, [stored], [*lengths, stored])]
    ratios = []
    for _ in range(pairs + 1):
        times = []
        for batch in batches:
            began = time.process_time()
            batch.step()
            times.append(time.process_time() - began)
        ratios.append(times[2] / (times[0] + times[1]))
    case = f"{short} rows beside one of {stored:,} stored columns, 20M, block"
    return TrafficFigure(case, round(statistics.median(ratios[1:]), 3), "x", "both apart, time")


def longest_wait(model: Transformer, prompt: int, limit: int | None) -> TrafficFigure:
    """Positions computed between two steps of four running streams while a long prompt enters."""
    config = EngineConfig(max_num_batched_tokens=limit)
    engine = Engine(model, WORDS, CPU, config)
    for _ in range(4):
        engine.submit(request_of(model, 40, gen_length=96))
    engine.step()
    engine.submit(request_of(model, prompt, gen_length=32))
    most = waited = 0
    while engine.stats.running == 5 or engine.stats.waiting:
        before = engine.stats.positions + engine.stats.padding
        events = engine.step()
        waited += engine.stats.positions + engine.stats.padding - before
        if any(isinstance(event, StepEvent) and event.row < 4 for event in events):
            most, waited = max(most, waited), 0
    budget = f"budget {limit or 'by default'}"
    return TrafficFigure(
        f"4 streams, a prompt of {prompt:,} enters, {budget}: longest wait",
        most,
        "positions",
        f"{prompt + 5 * 32:,} in one pass",
    )


class WorkCount:
    """What the layers of a network computed so far, in positions of a whole pass: each product
    counts as its share of the weights.
    """

    def __init__(self, model: Transformer) -> None:
        self.positions = 0.0
        products = [part for part in model.layers.modules() if isinstance(part, nn.Linear)]
        self._weights = sum(part.weight.numel() for part in products)
        for part in products:
            part.register_forward_hook(self._add)

    def _add(self, product: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        assert isinstance(product, nn.Linear)
        rows = inputs[0].shape[:-1].numel()
        self.positions += rows * product.weight.numel() / self._weights


def wait_for_work(model: Transformer, prompt: int, cache: str) -> TrafficFigure:
    """As `longest_wait`, for a prompt that cannot be cut: work between two steps of the streams
    during two passes of the long row.
    """
    count = WorkCount(model)
    engine = Engine(model, WORDS, CPU, EngineConfig())
    for _ in range(4):
        engine.submit(request_of(model, 40, gen_length=96, cache=cache))
    engine.step()
    long_row = engine.submit(request_of(model, prompt, cache=cache))
    most = began = 0.0
    long_passes = 0
    while (engine.stats.running == 5 and long_passes < 2) or engine.stats.waiting:
        rows = {event.row for event in engine.step()}
        long_passes += long_row in rows
        if rows - {long_row}:
            most = max(most, count.positions - began) if began else most
            began = count.positions
    case = f"4 streams beside a prompt of {prompt:,}, full attention, {cache}: longest wait"
    return TrafficFigure(case, round(most), "positions", f"{prompt + 64:,} of its own pass")


def run_staggered(
    model: Any, words: SpecialTokens, requests: Sequence[Request], at_a_time: int
) -> Engine:
    """The engine after all requests, of which `at_a_time` more join before each pass."""
    engine = Engine(model, words, CPU, EngineConfig(batch_size=len(requests)))
    waiting = list(requests)
    while waiting or engine.busy:
        for request in waiting[:at_a_time]:
            engine.submit(request)
        del waiting[:at_a_time]
        engine.step()
    return engine


def staggered(lm: LM, requests: Sequence[Request]) -> Iterator[TrafficFigure]:
    """Passes of requests that join one a pass, over those of a burst; padding and waiting."""
    burst = run_staggered(lm.model, lm.vocab, requests, len(requests)).stats
    stats = run_staggered(lm.model, lm.vocab, requests, 1).stats
    ratio = round(stats.forwards / burst.forwards, 3)
    count = len(requests)
    of_burst = f"a burst, {burst.forwards} passes"
    yield TrafficFigure(f"passes of {count} clients, one more a pass", ratio, "x", of_burst)
    padding = round(100 * stats.padding_share, 2)
    yield TrafficFigure("padding, staggered", padding, "%", "all computed positions")
    idle = round(100 * stats.idle_share, 2)
    yield TrafficFigure("idle, staggered", idle, "%", "passes while a request runs")


@torch.inference_mode()
def over_bare_passes(
    model: Transformer, words: SpecialTokens, requests: Sequence[Request], pairs: int
) -> TrafficFigure:
    """Throughput of the engine: time of its own bare passes over its time."""
    recorded = RecordedModel(model)
    run_staggered(recorded, words, requests, len(requests))
    ratios = []
    for _ in range(pairs):
        began = time.process_time()
        for args, kwargs in recorded.calls:
            model(*args, **kwargs)
        between = time.process_time()
        run_staggered(model, words, requests, len(requests))
        ratios.append((between - began) / (time.process_time() - between))
    ratio = round(statistics.median(ratios), 3)
    size = round(sum(weight.numel() for weight in model.parameters()) / 1e6)
    case = f"throughput of {len(requests)} requests at once, {size}M"
    return TrafficFigure(case, ratio, "x", f"its own {len(recorded.calls)} bare passes")


def figures(lm: LM, requests: Sequence[Request], pairs: int) -> Iterator[TrafficFigure]:
    """All of them; `requests` are the embedded model's."""
    yield from staggered(lm, requests)
    assert isinstance(lm.model, Transformer)
    yield over_bare_passes(lm.model, lm.vocab, requests, max(1, pairs // 2))
    model = network(None)
    alike = [replace(request_of(model, 48, 32, "fixed:k=8"), index=i) for i in range(32)]
    yield over_bare_passes(model, WORDS, alike, max(1, pairs // 2))
    for cache in ("none", "dual"):
        yield wait_for_work(network(None), 2000, cache)
    model = network(32)
    yield longest_wait(model, 8000, None)
    yield unlike_rows(model, 4, 8000, 2 * pairs)
    yield unlike_rows(model, 15, 3500, 2 * pairs)
