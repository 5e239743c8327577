"""`make bench`: continuous batching on the embedded model: 32 mixed requests at once, against the
same one by one and static batches.

The requests differ in task, prompt length, decoder, cache, length, temperature and guidance. They
arrive a few a pass, so that they are
at different blocks and steps all the time. The ideal is the faster of two batches that nobody joins
and in which all begin together:
all 32 in one plain loop, or requests of one kind (decoder and cache) at a time. One thread, its
processor time, the ways interleaved,
medians; each answer is compared with the one that the request gets alone. Prints a table and one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.engine import Engine, EngineStats
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request
from creditdecoding.lm import LM, load
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items
from creditdecoding.trace import FinishEvent

KINDS = (("credit", "none"), ("credit", "dual"), ("threshold", "prefix"), ("fixed:k=2", "dual"))
Answers = dict[int, tuple[int, ...]]


def requests(lm: LM, count: int) -> list[Request]:
    """Rows that differ in everything that a request can choose."""
    tasks = [distinct_items(family, "test", 0, count // 8 + 1) for family in load_tasks("pocket")]
    prompts = [item.prompt for same in zip(*tasks) for item in same]
    rows = []
    for i in range(count):
        config = GenerationConfig(
            decoder=KINDS[i % len(KINDS)][0],
            cache=KINDS[i % len(KINDS)][1],
            gen_length=(64, 96, 128)[i % 3],
            block_length=32,
            temperature=0.5 * (i % 7 == 0),
            cfg_scale=0.5 * (i % 11 == 10),
            seed=i,
        )
        rows.append(replace(lm.new_requests([prompts[i]], config)[0], index=i))
    return rows


def plain(lm: LM, *batches: Sequence[Request]) -> Answers:
    """Each batch in the plain loop, all its rows from the first pass on."""
    events = (
        event
        for batch in batches
        for event in denoise(lm.model, batch, lm.vocab, lm.device, len(batch))
    )
    return {event.row: event.tokens for event in events if isinstance(event, FinishEvent)}


def served(lm: LM, rows: Sequence[Request], arrivals: int, report: list[EngineStats]) -> Answers:
    """In the engine: `arrivals` rows more before each pass."""
    engine = Engine(lm.model, lm.vocab, lm.device, EngineConfig(batch_size=len(rows)))
    left, found = list(rows), {}
    while left or engine.busy:
        for row in left[:arrivals]:
            engine.submit(row)
        del left[:arrivals]
        found |= {
            event.row: event.tokens for event in engine.step() if isinstance(event, FinishEvent)
        }
    report.append(engine.stats)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--arrivals", type=int, default=4, help="requests that arrive a pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="pocket")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = load(args.model, device="cpu")
    rows = requests(lm, args.requests)
    kinds = [[row for row in rows if row.index % len(KINDS) == k] for k in range(len(KINDS))]
    stats: list[EngineStats] = []
    ways: dict[str, Callable[[], Answers]] = {
        "one by one": lambda: plain(lm, *([row] for row in rows)),
        "static, all together": lambda: plain(lm, rows),
        "static, a kind at a time": lambda: plain(lm, *kinds),
        "engine": lambda: served(lm, rows, args.arrivals, stats),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    answers: dict[str, Answers] = {}
    for _ in range(args.rounds + 1):  # the first is for warming up
        for way, work in ways.items():
            began = time.process_time()
            answers[way] = work()
            times[way].append(time.process_time() - began)
    alone = answers["one by one"]
    same = sum(answers["engine"][i] == alone[i] for i in alone)
    _print(
        args,
        {way: statistics.median(each[1:]) for way, each in times.items()},
        sum(map(len, alone.values())),
        same,
        stats[-1],
    )


def _print(
    args: argparse.Namespace, seconds: dict[str, float], tokens: int, same: int, stats: EngineStats
) -> None:
    best = min(seconds[way] for way in seconds if way.startswith("static"))
    table = Table(
        "way",
        "tokens a second of processor time",
        "engine is faster by",
        title=f"{args.requests} mixed requests, {args.model}, one thread",
    )
    for way, spent in seconds.items():
        table.add_row(way, f"{tokens / spent:.0f}", f"{spent / seconds['engine']:.2f}x")
    Console().print(table)
    found = {
        "of_ideal": round(best / seconds["engine"], 3),
        "over_one_by_one": round(seconds["one by one"] / seconds["engine"], 3),
        "same_answers": f"{same}/{args.requests}",
        "forwards": stats.forwards,
        "nfe": round(stats.passes / args.requests, 2),
        "padding_share": round(stats.padding_share, 4),
        "cache_bytes": stats.cache_bytes,
    }
    print(json.dumps({"bench": "serving_engine", **vars(args), **found}))


if __name__ == "__main__":
    main()
