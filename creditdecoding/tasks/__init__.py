"""Verifiable tasks by name: `pocket` is the eight synthetic tasks that the embedded model knows,
`chain` holds longer problems than it knows, and a benchmark's name or the path of a data file is
the task of its questions.
"""

from __future__ import annotations

from creditdecoding.errors import unknown_name
from creditdecoding.tasks import benchmarks, custom
from creditdecoding.tasks.base import Task
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS, long_arithmetic

GENERATED_TASKS = {**SYNTHETIC_TASKS, long_arithmetic.TASK.name: long_arithmetic.TASK}
"""All tasks whose items are generated, by name."""


def load_tasks(names: str) -> list[Task]:
    """The tasks that a comma-separated text names, without repeats. Raises `OptionError`."""
    tasks: dict[str, Task] = {}
    for name in (part.strip() for part in names.split(",")):
        if name == "pocket":
            tasks |= SYNTHETIC_TASKS
        else:
            task = _load_task(name)
            tasks[task.name] = task
    return list(tasks.values())


def _load_task(name: str) -> Task:
    if name in GENERATED_TASKS:
        return GENERATED_TASKS[name]
    if benchmarks.is_benchmark(name):
        return benchmarks.load(name)
    if custom.is_file(name):
        return custom.load(name)
    known = ["pocket", *GENERATED_TASKS, *benchmarks.NAMES]
    raise unknown_name("task", name.partition("=")[0], known)
