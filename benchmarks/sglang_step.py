"""`make bench`: our step inside SGLang beside SGLang's own, `LowConfidence.step` of the released
package, on the same CPU tensors.

Vocabulary 157,184, block 32, every position masked, float32 logits, three steps of history. Prints
a table and one JSON line; ratios are
medians over interleaved pairs on one thread. Where SGLang cannot be had, it says so and ends well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from creditdecoding.integrations.sglang.plugin import register
from tools.sglang_env import UnavailableError, run, stand_in

VOCAB, BLOCK, MASK = 157_184, 32, 156_895
THEIRS, OURS = "LowConfidence", ("Threshold", "CreditDecoding", "EntropyBounded")


def measure(registry: Any, rows: int, pairs: int) -> dict[str, list[float]]:
    """Milliseconds of each algorithm's step over `rows` requests."""
    logits = torch.randn(rows * BLOCK, VOCAB, generator=torch.Generator().manual_seed(rows)).mul_(3)
    tokens = torch.full((rows * BLOCK,), MASK)
    info = SimpleNamespace(is_all_greedy=True, vocab_size=VOCAB)
    batch = SimpleNamespace(
        batch_size=rows,
        input_ids=tokens,
        positions=torch.arange(BLOCK).repeat(rows),
        dllm_prompt_mask=None,
    )
    batch.sampling_info, batch.rids, batch.extend_prefix_lens_cpu = (
        info,
        [f"r{i}" for i in range(rows)],
        [0] * rows,
    )
    config = SimpleNamespace(
        block_size=BLOCK, mask_id=MASK, first_done_first_out_mode=True, algorithm_config={}
    )
    algorithms = {name: registry.get_algorithm_cls(name)(config) for name in (THEIRS, *OURS)}
    states = {name: algorithm.init_step_state(batch) for name, algorithm in algorithms.items()}
    times: dict[str, list[float]] = {name: [] for name in algorithms}
    for turn in range(3 + pairs):
        for name, algorithm in algorithms.items():
            tokens.fill_(MASK)
            began = time.perf_counter()
            algorithm.step(batch, logits, states[name])
            if turn >= 3:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def inside(pairs: int) -> None:
    """What runs in the process that has SGLang."""
    torch.set_num_threads(1)
    stand_in()
    register()
    import sglang.srt.dllm.algorithm as registry  # noqa: PLC0415
    import sglang.version  # noqa: PLC0415

    console, ratios = Console(width=100), {}
    table = Table(
        "requests",
        THEIRS,
        *OURS,
        title=f"SGLang {sglang.version.__version__}, one step in ms (ratio to {THEIRS})",
    )
    for rows in (1, 8, 32):
        times = measure(registry, rows, pairs)
        ratio = {
            name: statistics.median(a / b for a, b in zip(times[name], times[THEIRS]))
            for name in OURS
        }
        shown = (f"{statistics.median(times[name]):.0f} ({ratio[name]:.2f})" for name in OURS)
        table.add_row(str(rows), f"{statistics.median(times[THEIRS]):.0f}", *shown)
        ratios[rows] = {name: round(value, 3) for name, value in ratio.items()}
    console.print(table)
    print(
        json.dumps(
            {
                "bench": "sglang_step",
                "sglang": sglang.version.__version__,
                "vocab": VOCAB,
                "block": BLOCK,
                "time_ratio": ratios,
            }
        )
    )


def main() -> None:
    """Measure in a process that has SGLang."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.pairs)
        return
    try:
        done = run("benchmarks.sglang_step", "--inside", "--pairs", str(args.pairs), timeout=900)
    except UnavailableError as error:
        print(f"sglang_step skipped: {error}")
        return
    print(done.stdout, end="")
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
