"""Benchmarks by name: the paper's eight, and others that papers on diffusion models report.
`NAME` loads from the hub, `NAME=PATH` from a local file or folder; `NAME@TEMPLATE` uses another
prompt template.

A benchmark's module is imported when it is named.
"""

from __future__ import annotations

import importlib

from creditdecoding.errors import unknown_name
from creditdecoding.tasks.base import Task
from creditdecoding.tasks.benchmarks.base import Benchmark, as_tasks

NAMES = (
    "mmlu",
    "squad2",
    "drop",
    "korbench",
    "humaneval",
    "livecodebench",
    "gsm8k",
    "math",
    "mbpp",
    "countdown",
    "sudoku",
    "parallelbench",
)


def get(name: str) -> Benchmark:
    """The benchmark called `name`. Raises `OptionError`."""
    if name not in NAMES:
        raise unknown_name("benchmark", name, NAMES)
    benchmark: Benchmark = importlib.import_module(f"{__name__}.{name}").BENCHMARK
    return benchmark


def is_benchmark(spec: str) -> bool:
    """Whether `spec` begins with a benchmark's name."""
    return spec.partition("=")[0].partition("@")[0] in NAMES


def load(spec: str) -> list[Task]:
    """The tasks of `NAME`, `NAME@TEMPLATE`, `NAME=PATH` or `NAME@TEMPLATE=PATH`. Raises
    `OptionError`.
    """
    head, _, path = spec.partition("=")
    name, _, template = head.partition("@")
    return as_tasks(get(name), template.strip(), path.strip())
