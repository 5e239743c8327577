"""`make bench`: what the credit step costs beside the threshold step, at a real vocabulary.

Both steps include the one pass over the logits that any decoder needs (top-1, log-sum-exp); the
ceiling is that pass alone.
Prints a table and one JSON line. Times are medians over interleaved pairs on one thread; memory is
the peak of what a step
allocates, from torch's own accounting, beside the logits that both need.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from creditdecoding.decoders import create
from creditdecoding.decoders.base import Block, Prediction, Sampling, State
from creditdecoding.ops.vocab_stats import log_sum, vocab_mass


def prediction(flat: torch.Tensor, rows: int, length: int) -> Prediction:
    """What generate.py hands a decoder when every position of the block is masked."""
    ids, top, rest = (x.view(rows, length) for x in vocab_mass(flat))
    zero = torch.zeros(rows, dtype=torch.long)
    position = torch.arange(length).expand(rows, -1)
    place = torch.arange(rows * length).view(rows, length)
    masked, sampling = torch.ones(rows, length, dtype=torch.bool), Sampling(zero, position, zero)
    return Prediction(ids, top, log_sum(top, rest), flat, place, masked, sampling, mass=(top, rest))


def peak_bytes(step: Callable[[], object]) -> int:
    """Largest sum of live allocations during `step`, above what lived before it."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = step()
    live = peak = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda e: e.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    del kept
    return peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocab", type=int, default=126_464)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument(
        "--history", type=int, default=4, help="steps of credit history before measuring"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(args.rows * args.block, args.vocab, generator=generator)
    masked = torch.ones(args.rows, args.block, dtype=torch.bool)
    tokens = torch.zeros(args.rows, args.block, dtype=torch.long)
    block = Block(
        tokens,
        masked,
        masked,
        torch.full((args.rows,), args.block),
        torch.zeros(args.rows, dtype=torch.long),
    )
    threshold, credit = create("threshold"), create("credit")
    state: State = credit.init(args.rows, args.block, args.vocab, flat.device)
    for _ in range(args.history):  # other winners at every step, so that several slots are in use
        winners = torch.randint(args.vocab, (len(flat), 1), generator=generator)
        flat.scatter_(1, winners, 12.0)
        _, state = credit.step(prediction(flat, args.rows, args.block), block, state)
        flat.scatter_(1, winners, 0.0)
    steps: dict[str, Callable[[], object]] = {
        "one pass over the logits": lambda: vocab_mass(flat),
        "threshold step": lambda: threshold.step(
            prediction(flat, args.rows, args.block), block, {}
        ),
        "credit step": lambda: credit.step(prediction(flat, args.rows, args.block), block, state),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(args.pairs):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - began))
    logits = flat.numel() * flat.element_size()
    memory = {name: peak_bytes(step) + logits for name, step in steps.items()}
    _print(args, times, memory, logits)


def _print(
    args: argparse.Namespace, times: dict[str, list[float]], memory: dict[str, int], logits: int
) -> None:
    ceiling, plain, ours = times
    ratio = statistics.median(a / b for a, b in zip(times[ours], times[plain]))
    table = Table(
        "",
        "ms",
        "MiB beside the logits",
        title=f"vocabulary {args.vocab:,}, block {args.block}, {args.rows} rows, one thread",
    )
    for name in times:
        table.add_row(
            name, f"{statistics.median(times[name]):.0f}", f"{(memory[name] - logits) / 2**20:.2f}"
        )
    Console().print(table)
    found = {
        "bench": "decoder_step",
        "vocab": args.vocab,
        "block": args.block,
        "rows": args.rows,
        "ceiling_ms": round(statistics.median(times[ceiling]), 1),
        "threshold_ms": round(statistics.median(times[plain]), 1),
        "credit_ms": round(statistics.median(times[ours]), 1),
        "time_ratio": round(ratio, 3),
        "logits_mib": round(logits / 2**20, 1),
        "memory_ratio": round(memory[ours] / memory[plain], 4),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
