"""Continuous batching on the embedded model: 32 mixed requests in the engine, one by
one, and in static batches.

The requests differ in task, prompt length, decoder, cache, length, temperature and guidance. They
arrive a few a pass, so that they are always at different blocks and steps. The ideal is the faster
of two static batches: all 32 in one plain loop, or requests of one kind (decoder and cache) at a
time. Processor time of one thread, the ways interleaved, medians; each answer is compared with the
one that the request gets alone. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from creditdecoding.cli.render import show, table
from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.engine_stats import EngineStats
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request
from creditdecoding.lm import LM, load
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items
from creditdecoding.trace import FinishEvent

KINDS = (("credit", "none"), ("credit", "dual"), ("threshold", "prefix"), ("fixed:k=2", "dual"))
"""Decoders and caches."""

ALONE, ENGINE = "one by one", "engine"
STATIC = ("static, all together", "static, a kind at a time")
Answers = dict[int, tuple[int, ...]]


def make_requests(lm: LM, count: int) -> list[Request]:
    """Requests that differ in everything that a request can choose."""
    items = [distinct_items(task, "test", 0, count // 8 + 1) for task in load_tasks("pocket")]
    prompts = [item.prompt for one_of_each in zip(*items) for item in one_of_each]
    requests = []
    for number in range(count):
        decoder, cache = KINDS[number % len(KINDS)]
        config = GenerationConfig(
            decoder=decoder,
            cache=cache,
            gen_length=(64, 96, 128)[number % 3],
            block_length=32,
            temperature=0.5 if number % 7 == 0 else 0.0,
            cfg_scale=0.5 if number % 11 == 10 else 0.0,
            seed=number,
        )
        request = lm.new_requests([prompts[number]], config)[0]
        requests.append(replace(request, index=number))
    return requests


def finished(events: Iterable[object]) -> Answers:
    """The answers that end in these events, by the request's index."""
    return {event.row: event.tokens for event in events if isinstance(event, FinishEvent)}


def run_static(lm: LM, *batches: Sequence[Request]) -> Answers:
    """Each batch in the plain loop, all its requests from the first pass on."""
    answers: Answers = {}
    for batch in batches:
        answers |= finished(denoise(lm.model, batch, lm.vocab, lm.device, len(batch)))
    return answers


def run_engine(
    lm: LM, requests: Sequence[Request], arrivals: int, stats: list[EngineStats]
) -> Answers:
    """In the engine, `arrivals` more requests before each pass."""
    engine = Engine(lm.model, lm.vocab, lm.device, EngineConfig(batch_size=len(requests)))
    waiting = list(requests)
    answers: Answers = {}
    while waiting or engine.busy:
        for request in waiting[:arrivals]:
            engine.submit(request)
        del waiting[:arrivals]
        answers |= finished(engine.step())
    stats.append(engine.stats)
    return answers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--arrivals", type=int, default=4, help="requests that arrive a pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="pocket-v1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = load(args.model, device="cpu")
    requests = make_requests(lm, args.requests)
    kinds = [requests[kind :: len(KINDS)] for kind in range(len(KINDS))]
    stats: list[EngineStats] = []
    ways: dict[str, Callable[[], Answers]] = {
        ALONE: lambda: run_static(lm, *([request] for request in requests)),
        STATIC[0]: lambda: run_static(lm, requests),
        STATIC[1]: lambda: run_static(lm, *kinds),
        ENGINE: lambda: run_engine(lm, requests, args.arrivals, stats),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    answers: dict[str, Answers] = {}
    for _ in range(args.rounds + 1):  # the first round is for warming up
        for way, run in ways.items():
            started_at = time.process_time()
            answers[way] = run()
            times[way].append(time.process_time() - started_at)
    seconds = {way: statistics.median(values[1:]) for way, values in times.items()}
    report(args, seconds, answers, stats[-1])


def report(
    args: argparse.Namespace,
    seconds: dict[str, float],
    answers: dict[str, Answers],
    stats: EngineStats,
) -> None:
    """Print a table and one JSON line."""
    alone = answers[ALONE]
    tokens = sum(map(len, alone.values()))
    same = sum(answers[ENGINE][index] == answer for index, answer in alone.items())
    rows = [
        (way, f"{tokens / spent:.0f}", f"{spent / seconds[ENGINE]:.2f}x")
        for way, spent in seconds.items()
    ]
    title = f"{args.requests} mixed requests, {args.model}, one thread"
    show(table(("way", "tokens / processor second", "engine is faster by"), rows, title))
    record = {
        "of_ideal": round(min(seconds[way] for way in STATIC) / seconds[ENGINE], 3),
        "over_one_by_one": round(seconds[ALONE] / seconds[ENGINE], 3),
        "same_answers": f"{same}/{args.requests}",
        "forwards": stats.forwards,
        "nfe": round(stats.passes / args.requests, 2),
        "padding_share": round(stats.padding_share, 4),
        "idle_share": round(stats.idle_share, 4),
        "cache_bytes": stats.cache_bytes,
    }
    print(json.dumps({"bench": "serving_engine", **vars(args), **record}))


if __name__ == "__main__":
    main()
