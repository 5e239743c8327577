"""Our step inside SGLang compared with SGLang's own, `LowConfidence.step` of the
released package, on the same CPU tensors.

Vocabulary 157,184, block 32, every position masked, float32 logits, three steps of history. Ratios
are medians over interleaved pairs on one thread. Prints a table and one JSON line. If SGLang cannot
be installed, it says so and exits with 0.
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

from creditdecoding.cli.render import show, table
from creditdecoding.integrations.sglang.plugin import register
from tools.sglang_env import UnavailableError, run, stand_in

VOCAB = 157_184
BLOCK = 32
MASK = 156_895
HISTORY = 3
THEIRS = "LowConfidence"
OURS = ("Threshold", "CreditDecoding", "EntropyBounded")


def forward_batch(rows: int) -> SimpleNamespace:
    """A batch as SGLang gives it to an algorithm, with every position masked."""
    return SimpleNamespace(
        batch_size=rows,
        input_ids=torch.full((rows * BLOCK,), MASK),
        positions=torch.arange(BLOCK).repeat(rows),
        dllm_prompt_mask=None,
        sampling_info=SimpleNamespace(is_all_greedy=True, vocab_size=VOCAB),
        rids=[f"r{row}" for row in range(rows)],
        extend_prefix_lens_cpu=[0] * rows,
    )


def measure(registry: Any, rows: int, pairs: int) -> dict[str, list[float]]:
    """Milliseconds of each algorithm's step over `rows` requests."""
    logits = torch.randn(rows * BLOCK, VOCAB, generator=torch.Generator().manual_seed(rows)).mul_(3)
    batch = forward_batch(rows)
    config = SimpleNamespace(
        block_size=BLOCK, mask_id=MASK, first_done_first_out_mode=True, algorithm_config={}
    )
    algorithms = {name: registry.get_algorithm_cls(name)(config) for name in (THEIRS, *OURS)}
    states = {name: algorithm.init_step_state(batch) for name, algorithm in algorithms.items()}
    times: dict[str, list[float]] = {name: [] for name in algorithms}
    for turn in range(HISTORY + pairs):
        for name, algorithm in algorithms.items():
            batch.input_ids.fill_(MASK)
            started_at = time.perf_counter()
            algorithm.step(batch, logits, states[name])
            if turn >= HISTORY:
                times[name].append(1000 * (time.perf_counter() - started_at))
    return times


def measure_inside(pairs: int) -> None:
    """Measure and print; runs in a process that has SGLang."""
    torch.set_num_threads(1)
    stand_in()
    register()
    import sglang.srt.dllm.algorithm as registry  # noqa: PLC0415
    import sglang.version  # noqa: PLC0415

    version = sglang.version.__version__
    ratios = {}
    cells = []
    for rows in (1, 8, 32):
        times = measure(registry, rows, pairs)
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratios[rows] = {
            name: statistics.median(a / b for a, b in zip(times[name], times[THEIRS]))
            for name in OURS
        }
        ours = (f"{medians[name]:.0f} ({ratios[rows][name]:.2f})" for name in OURS)
        cells.append((str(rows), f"{medians[THEIRS]:.0f}", *ours))
    title = f"SGLang {version}, one step in ms (ratio to {THEIRS})"
    show(table(("requests", THEIRS, *OURS), cells, title))
    record = {
        "bench": "sglang_step",
        "sglang": version,
        "vocab": VOCAB,
        "block": BLOCK,
        "time_ratio": {
            rows: {name: round(ratio, 3) for name, ratio in by_name.items()}
            for rows, by_name in ratios.items()
        },
    }
    print(json.dumps(record))


def main() -> None:
    """Measure in a process that has SGLang."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        measure_inside(args.pairs)
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
