"""Verifiable tasks by name: a generated task, a group of them (`GROUPS`), a benchmark's name or
the path of a data file, which is the task of its questions. A Python file, or the entry point of an
installed package, defines a task of its own.
"""

from __future__ import annotations

from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.plugins import is_python_file
from creditdecoding.tasks import benchmarks, custom, outside
from creditdecoding.tasks.base import Task
from creditdecoding.tasks.synthetic import POCKET_V2_TASKS, SYNTHETIC_TASKS, long_arithmetic
from creditdecoding.tasks.synthetic.lists import LIST_TASKS

GENERATED_TASKS = {**POCKET_V2_TASKS, long_arithmetic.TASK.name: long_arithmetic.TASK}
"""All tasks whose items are generated, by name."""
GROUPS: dict[str, dict[str, Task]] = {
    "pocket": SYNTHETIC_TASKS,
    "lists": LIST_TASKS,
    "pocket-v2": POCKET_V2_TASKS,
}
"""Several generated tasks under one name. A group never changes: another mix gets another name, so
that a published table keeps its meaning.
"""
BUILTIN = (*GROUPS, *GENERATED_TASKS, *benchmarks.NAMES)
"""The names of this package's tasks."""


def load_tasks(names: str, open_text: bool = False) -> list[Task]:
    """The tasks that a comma-separated text names, without repeats. Raises `OptionError`, also for
    a file of prompts without answers, unless `open_text` allows it.
    """
    tasks: dict[str, Task] = {}
    for name in (part.strip() for part in names.split(",")):
        tasks |= {task.name: task for task in _named(name, open_text)}
    return list(tasks.values())


def names() -> list[str]:
    """The names of all tasks, without files; installed ones last."""
    return [*BUILTIN, *outside.installed(frozenset(BUILTIN))]


def _named(name: str, open_text: bool) -> list[Task]:
    """The tasks of one name."""
    if name in GROUPS:
        return list(GROUPS[name].values())
    if name in GENERATED_TASKS:
        return [GENERATED_TASKS[name]]
    if name.partition("=")[0] in (*GROUPS, *GENERATED_TASKS):
        hint = "Leave out what follows the name, or name the file alone."
        raise OptionError("the items of this task are generated", given=name, hint=hint)
    if benchmarks.is_benchmark(name):
        return benchmarks.load(name)
    if is_python_file(name):
        return [outside.from_file(name, frozenset(BUILTIN))]
    if custom.is_file(name):
        return [custom.load(name, open_text)]
    installed = outside.installed(frozenset(BUILTIN))
    if name not in installed:
        raise unknown_name("task", name.partition("=")[0], names())
    return [outside.from_plugin(installed[name])]
