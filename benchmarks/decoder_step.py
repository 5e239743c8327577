"""The cost of the credit step compared with the threshold step, at a real vocabulary.

Both include the one pass over the logits that any decoder needs (top-1, log-sum-exp); that pass
alone is the ceiling. Times are medians over interleaved pairs on one thread. Memory is the peak of
what a step allocates, by torch's own accounting, without the logits. Prints a table and one JSON
line.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from creditdecoding.cli.render import show, table
from creditdecoding.decoders import create
from creditdecoding.decoders.base import Block, Prediction, Sampling, State
from creditdecoding.ops.vocab_stats import log_sum, vocab_mass

PASS = "one pass over the logits"
THRESHOLD = "threshold step"
CREDIT = "credit step"
FIXED = "fixed step"
Step = Callable[[], object]


def prediction(logits: Tensor, rows: int, length: int) -> Prediction:
    """What a decoder gets when every position of the block is masked."""
    ids, top, rest = (values.view(rows, length) for values in vocab_mass(logits))
    zero = torch.zeros(rows, dtype=torch.long)
    position = torch.arange(length).expand(rows, -1)
    return Prediction(
        ids=ids,
        logit=top,
        lse=log_sum(top, rest),
        logits=logits,
        logit_row=torch.arange(rows * length).view(rows, length),
        masked=torch.ones(rows, length, dtype=torch.bool),
        sampling=Sampling(seed=zero, position=position, step=zero),
        mass=(top, rest),
    )


def masked_block(rows: int, length: int) -> Block:
    """A block in which every position is masked."""
    masked = torch.ones(rows, length, dtype=torch.bool)
    return Block(
        tokens=torch.zeros(rows, length, dtype=torch.long),
        masked=masked,
        editable=masked,
        initial_masks=torch.full((rows,), length),
        step=torch.zeros(rows, dtype=torch.long),
    )


def make_steps(
    args: argparse.Namespace, logits: Tensor, generator: torch.Generator
) -> dict[str, Step]:
    """The steps to measure; credit has a history in which several ids of a position have won."""
    rows, length = args.rows, args.block
    block = masked_block(rows, length)
    threshold, credit = create("threshold"), create("credit")
    fixed = create("fixed")
    state: State = credit.init(rows, length, args.vocab, logits.device)
    for _ in range(args.history):
        winners = torch.randint(args.vocab, (len(logits), 1), generator=generator)
        logits.scatter_(1, winners, 12.0)
        _, state = credit.step(prediction(logits, rows, length), block, state)
        logits.scatter_(1, winners, 0.0)
    return {
        PASS: lambda: vocab_mass(logits),
        FIXED: lambda: fixed.step(prediction(logits, rows, length), block, {}),
        THRESHOLD: lambda: threshold.step(prediction(logits, rows, length), block, {}),
        CREDIT: lambda: credit.step(prediction(logits, rows, length), block, state),
    }


def peak_bytes(step: Step) -> int:
    """Largest sum of live allocations during `step`, above those before it."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    del result
    return peak


def measure(steps: dict[str, Step], pairs: int) -> dict[str, list[float]]:
    """Milliseconds of each step, `pairs` times in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # warm up
    for _ in range(pairs):
        for name, step in steps.items():
            started_at = time.process_time()
            step()
            times[name].append(1000 * (time.process_time() - started_at))
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocab", type=int, default=126_464)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--history", type=int, default=4, help="steps of credit before measuring")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(args.rows * args.block, args.vocab, generator=generator)
    steps = make_steps(args, logits, generator)
    times = measure(steps, args.pairs)
    memory = {name: peak_bytes(step) for name, step in steps.items()}
    report(args, times, memory, logits.numel() * logits.element_size())


def report(
    args: argparse.Namespace,
    times: dict[str, list[float]],
    memory: dict[str, int],
    logits_bytes: int,
) -> None:
    """Print a table and one JSON line; the memory ratio is with the logits."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [(name, f"{medians[name]:.0f}", f"{memory[name] / 2**20:.2f}") for name in times]
    title = f"vocabulary {args.vocab:,}, block {args.block}, {args.rows} rows, one thread"
    show(table(("", "ms", "MiB without the logits"), rows, title))
    pairs = zip(times[CREDIT], times[THRESHOLD])
    memory_ratio = (memory[CREDIT] + logits_bytes) / (memory[THRESHOLD] + logits_bytes)
    record = {
        "bench": "decoder_step",
        "vocab": args.vocab,
        "block": args.block,
        "rows": args.rows,
        "ceiling_ms": round(medians[PASS], 1),
        "threshold_ms": round(medians[THRESHOLD], 1),
        "credit_ms": round(medians[CREDIT], 1),
        "time_ratio": round(statistics.median(credit / plain for credit, plain in pairs), 3),
        "logits_mib": round(logits_bytes / 2**20, 1),
        "memory_ratio": round(memory_ratio, 4),
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
