"""Verifiable tasks by name: `pocket` is the eight synthetic tasks that the embedded model knows,
`chain` holds longer problems than it knows, and a benchmark's name or the path of a data file is
the task of its questions. A Python file, or the entry point of an installed package, defines a task
of its own.
"""

from __future__ import annotations

from creditdecoding.errors import unknown_name
from creditdecoding.plugins import is_python_file
from creditdecoding.tasks import benchmarks, custom, outside
from creditdecoding.tasks.base import Task
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS, long_arithmetic

GENERATED_TASKS = {**SYNTHETIC_TASKS, long_arithmetic.TASK.name: long_arithmetic.TASK}
"""All tasks whose items are generated, by name."""

BUILTIN = ("pocket", *GENERATED_TASKS, *benchmarks.NAMES)
"""The names of this package's tasks."""


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


def names() -> list[str]:
    """The names of all tasks, without files; installed ones last."""
    return [*BUILTIN, *outside.installed(frozenset(BUILTIN))]


def _load_task(name: str) -> Task:
    if name in GENERATED_TASKS:
        return GENERATED_TASKS[name]
    if benchmarks.is_benchmark(name):
        return benchmarks.load(name)
    if is_python_file(name):
        return outside.from_file(name, frozenset(BUILTIN))
    if custom.is_file(name):
        return custom.load(name)
    installed = outside.installed(frozenset(BUILTIN))
    if name not in installed:
        raise unknown_name("task", name.partition("=")[0], names())
    return outside.from_plugin(installed[name])
