"""Verifiable tasks by name: `pocket` is all eight embedded families, a family's name is that one,
`chain` longer problems than the
embedded model knows (chain.py), a benchmark's name (benchmarks/) that one, a data file's path the
questions in it (questions.py).
"""

from __future__ import annotations

from creditdecoding.errors import unknown_name
from creditdecoding.tasks import benchmarks
from creditdecoding.tasks import custom as questions
from creditdecoding.tasks.base import Task
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS, long_arithmetic

GENERATED_TASKS = {**SYNTHETIC_TASKS, long_arithmetic.TASK.name: long_arithmetic.TASK}
"""Every family whose items are made, by name."""


def load_tasks(names: str) -> list[Task]:
    """The families that a comma-separated text names, without repeats. Raises `OptionError`."""
    found: dict[str, Task] = {}
    for name in (part.strip() for part in names.split(",")):
        if name == "pocket":
            found |= SYNTHETIC_TASKS
        elif name in GENERATED_TASKS:
            found[name] = GENERATED_TASKS[name]
        elif benchmarks.is_named(name):
            loaded = benchmarks.load(name)
            found[loaded.name] = loaded
        elif questions.is_file(name):
            found[name] = questions.load(name)
        else:
            raise unknown_name(
                "task", name.partition("=")[0], ["pocket", *GENERATED_TASKS, *benchmarks.NAMES]
            )
    return list(found.values())
