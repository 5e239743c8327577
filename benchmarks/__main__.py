"""`make bench`: one table of what decoding costs, and the same as JSON.

    python -m benchmarks [--only loop,rules] [--sizes 2M,20M] [--pairs 5] [--out bench.json]

Every figure stands beside what it is compared with. Times are processor time of one thread, ratios
are medians of interleaved pairs, so that other work on the machine counts as little as it can.
docs/performance.md says how to read the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import (
    bare_passes,
    caches,
    decoder_step,
    fused_head,
    mixed_traffic,
    remedies,
    serving_engine,
)
from creditdecoding.cli.render import show, table
from creditdecoding.decoding.engine_stats import EngineStats
from creditdecoding.lm import load
from creditdecoding.models.precision import cpu_capabilities
from creditdecoding.models.transformer import Transformer

PROMPT = "What is the capital of Peru and the language of Japan?"


@dataclass(frozen=True)
class BenchRow:
    """One figure: what was measured, in which case, and what it is compared with."""

    section: str
    case: str
    value: float
    unit: str
    compared_with: str


def loop_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """Our loop over the forward passes that it runs, and alone."""
    if bare_passes.POCKET in args.sizes.split(","):
        yield from lone_loop_rows(args)
    for size in args.sizes.split(","):
        for batch in (1, 8):
            for decoder in ("credit", "threshold"):
                cost = bare_passes.loop_cost(size, batch, decoder, args.pairs)
                bare = f"bare passes, {cost.bare_ms:.1f} ms each, {cost.passes} of them"
                case = f"{decoder}, {size} parameters, batch {batch}"
                yield BenchRow("loop", case, round(cost.ratio, 3), "x", bare)


def lone_loop_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """What is not the network, in microseconds a pass."""
    fixed = bare_passes.loop_alone("fixed", 4 * args.pairs)
    for decoder in ("threshold", "credit"):
        value = bare_passes.loop_alone(decoder, 4 * args.pairs)
        case = f"{decoder}, a network that answers at once, batch 1"
        yield BenchRow("loop", case, round(value), "us a pass", f"fixed, {fixed:.0f} us")


def remedy_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """A pass as it is over the same without a remedy."""
    for remedy in remedies.remedies(8 * args.pairs):
        before = f"before, {remedy.before_ms:.3f} ms"
        yield BenchRow("remedies", remedy.case, round(remedy.ratio, 3), "x", before)


def head_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """The peak of a step that writes no logits, and of one that does."""
    case = fused_head.head_case(torch.float32, "credit")
    for mode in ("on", "off"):
        peak = case.peak(mode)
        text = f"the logits, {peak.logits / 2**20:.0f} MiB; {peak.seconds:.1f} s"
        positions = f"{fused_head.POSITIONS:,} positions, {fused_head.IDS:,} ids"
        label = f"peak of a step, fused_head {mode}, {positions}"
        yield BenchRow("memory", label, round(peak.share, 2), "%", text)


def rule_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """A step of credit over one of threshold over one of fixed, and what credit allocates."""
    for vocabulary, rows in ((1_152, 1), (32_000, 1), (126_464, 4)):
        options = argparse.Namespace(vocab=vocabulary, block=32, rows=rows, history=4)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(rows * 32, vocabulary, generator=generator)
        steps = decoder_step.make_steps(options, logits, generator)
        times = decoder_step.measure(steps, 4 * args.pairs + 1)
        case = f"{vocabulary:,} ids, {rows} x 32 positions"
        for name, base in (
            (decoder_step.CREDIT, decoder_step.THRESHOLD),
            (decoder_step.THRESHOLD, decoder_step.FIXED),
            (decoder_step.CREDIT, decoder_step.PASS),
        ):
            ratio = statistics.median(a / b for a, b in zip(times[name], times[base]))
            ms = f"{base}, {statistics.median(times[base]):.2f} ms"
            yield BenchRow("rules", f"{name}, {case}", round(ratio, 3), "x", ms)
        peak = decoder_step.peak_bytes(steps[decoder_step.CREDIT])
        share = round(100 * peak / logits.nbytes, 2)
        yield BenchRow("memory", f"peak of a credit step, {case}", share, "%", "its logits")


def cache_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """A pass with each cache over one without."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 2048, (256,), generator=generator).tolist()
    cases = {name: caches.CacheCase(name, prompt, 64, 32) for name in caches.CASES}
    for case in cases.values():
        case.step()
    while not all(case.request.is_decoded for case in cases.values()):
        for case in cases.values():
            case.timed_step()
    base = cases["none"]
    for name, case in cases.items():
        if case is not base:
            share = case.mean_operations() / base.mean_operations()
            ideal = f"no cache, {base.mean_ms():.1f} ms; {share:.2f} of its operations"
            ratio = round(case.mean_ms() / base.mean_ms(), 3)
            yield BenchRow("caches", f"{name}, 20M, prompt 256, gen 64", ratio, "x", ideal)


def engine_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """32 mixed requests in the engine over the same in static batches, and its padding."""
    lm = load("pocket-v1", device="cpu", dtype="float32")
    requests = serving_engine.make_requests(lm, 32)
    kinds = [requests[i :: len(serving_engine.KINDS)] for i in range(len(serving_engine.KINDS))]
    stats: list[EngineStats] = []
    ways: dict[str, Callable[[], object]] = {
        "engine": lambda: serving_engine.run_engine(lm, requests, 4, stats),
        "static": lambda: serving_engine.run_static(lm, *kinds),
        "alone": lambda: serving_engine.run_static(lm, *([request] for request in requests)),
    }
    times = decoder_step.measure(ways, max(1, args.pairs // 2))
    for way, text in (
        ("static", "static batches of a kind"),
        ("alone", "one request at a time"),
    ):
        ratio = statistics.median(a / b for a, b in zip(times["engine"], times[way]))
        seconds = statistics.median(times[way]) / 1000
        yield BenchRow(
            "engine", "32 mixed requests", round(ratio, 3), "x", f"{text}, {seconds:.2f} s"
        )
    padding = round(100 * stats[-1].padding_share, 2)
    yield BenchRow("engine", "padding", padding, "%", "all computed positions")
    for figure in mixed_traffic.figures(lm, requests, args.pairs):
        yield BenchRow("engine", *vars(figure).values())
    today = load("pocket", device="cpu", dtype="float32")
    assert isinstance(today.model, Transformer)
    requests = serving_engine.make_requests(today, 32)
    pairs = max(1, args.pairs // 2)
    figure = mixed_traffic.over_bare_passes(today.model, today.vocab, requests, pairs)
    yield BenchRow("engine", *vars(figure).values())


def start_rows(args: argparse.Namespace) -> Iterator[BenchRow]:
    """Commands from a new process: processor time, time by the clock, and the most memory."""
    for arguments, limit in ((["--help"], "goal 0.25 s"), (["generate", PROMPT], "goal 2.5 s")):
        runs = [run_command(arguments) for _ in range(3)]
        seconds, elapsed, mebibytes = (statistics.median(values) for values in zip(*runs))
        case = f"credit {arguments[0]}"
        yield BenchRow("start-up", case, round(seconds, 2), "s", limit)
        yield BenchRow("start-up", f"{case}, wall clock", round(elapsed, 2), "s", limit)
        whole = "the whole process"
        yield BenchRow("memory", f"peak of {case}", round(mebibytes), "MiB", whole)


LAUNCH = """
import resource, subprocess, sys, time
null = subprocess.DEVNULL
began = time.monotonic()
status = subprocess.call(sys.argv[1:], stdout=null, stderr=null)
elapsed = time.monotonic() - began
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(status, usage.ru_utime + usage.ru_stime, elapsed, usage.ru_maxrss)
"""
"""A small parent: a child's peak counts what its parent held when it forked."""


def run_command(arguments: list[str]) -> tuple[float, float, float]:
    """Processor seconds, seconds of the clock and peak MiB of a command."""
    command = [sys.executable, "-m", "creditdecoding", *arguments]
    printed = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    status, seconds, elapsed, kibibytes = printed.stdout.split()
    if status != "0":
        raise SystemExit(f"error: credit {arguments[0]} failed with {status}")
    return float(seconds), float(elapsed), int(kibibytes) / 1024


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[BenchRow]]] = {
    "loop": loop_rows,
    "remedies": remedy_rows,
    "rules": rule_rows,
    "memory": head_rows,
    "caches": cache_rows,
    "engine": engine_rows,
    "start-up": start_rows,
}


def processor_name() -> str:
    """The processor's name, where torch or the platform knows it."""
    name = cpu_capabilities().get("cpu_name")
    return str(name or platform.processor() or "unknown")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": processor_name(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "most MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """Measure, print one table, write JSON beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    parser.add_argument("--sizes", default="2M,4M,20M,100M", help="networks of the section loop")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    sections = args.only.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        parser.error(f"no such section: {unknown[0]}; allowed: {', '.join(SECTIONS)}")
    if unknown := [size for size in args.sizes.split(",") if size not in bare_passes.SIZES]:
        parser.error(f"no such size: {unknown[0]}; allowed: {', '.join(bare_passes.SIZES)}")
    torch.set_num_threads(1)
    rows: list[BenchRow] = []
    for name in sections:
        print(f"measuring {name} ...", file=sys.stderr)
        for row in SECTIONS[name](args):
            rows.append(row)
            print(f"  {row.case}: {row.value:g} {row.unit}", file=sys.stderr, flush=True)
            write_record(args.out, rows)
    cells = [(r.section, r.case, f"{r.value:g} {r.unit}", r.compared_with) for r in rows]
    show(table(("", "case", "measured", "compared with"), cells, "one thread"))
    print(f"also in {args.out}", file=sys.stderr)


def write_record(path: Path, rows: list[BenchRow]) -> None:
    """The rows so far, so that an interrupted run keeps what it measured."""
    record = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
