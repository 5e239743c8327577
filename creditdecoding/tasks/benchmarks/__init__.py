"""The paper's eight benchmarks by name. `NAME` loads from the hub, `NAME=PATH` from a local file or
folder, `NAME@TEMPLATE` asks otherwise.

A benchmark's file is imported when it is named.
"""

from __future__ import annotations

import importlib

from creditdecoding.errors import unknown_name
from creditdecoding.tasks.base import Task
from creditdecoding.tasks.benchmarks import base

NAMES = ("mmlu", "squad2", "drop", "korbench", "humaneval", "livecodebench", "gsm8k", "math")


def get(name: str) -> base.Benchmark:
    """The benchmark of that name. Raises `OptionError`."""
    if name not in NAMES:
        raise unknown_name("benchmark", name, NAMES)
    found: base.Benchmark = importlib.import_module(f"{__name__}.{name}").BENCHMARK
    return found


def is_named(spec: str) -> bool:
    """Whether `spec` begins with a benchmark's name."""
    return spec.partition("=")[0].partition("@")[0] in NAMES


def load(spec: str) -> Task:
    """The family of `NAME`, `NAME@TEMPLATE`, `NAME=PATH` or `NAME@TEMPLATE=PATH`. Raises
    `OptionError`.
    """
    head, _, path = spec.partition("=")
    name, _, template = head.partition("@")
    return base.family(get(name), template.strip(), path.strip())
