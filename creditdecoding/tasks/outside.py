"""Tasks from outside of this package: `TASK = Task(...)` in a Python file, or the entry point of an
installed package, which names such a `Task` or a module with a `TASK`.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.plugins import Plugin, load_file, plugins, source_digest
from creditdecoding.tasks.base import Task

GROUP = "creditdecoding.tasks"
"""The entry-point group for tasks of other packages."""


def installed(builtin: frozenset[str]) -> dict[str, Plugin]:
    """The tasks of other packages by name."""
    return plugins(GROUP, "task", builtin)


def from_file(path: str, builtin: frozenset[str]) -> Task:
    """The task that a Python file defines. Raises `OptionError`."""
    module = load_file(path, "task")
    task = _checked(getattr(module, "TASK", None), path)
    if task.name in builtin:
        raise OptionError(
            f"{path}: the task has a built-in name",
            given=task.name,
            allowed=f"any name but {', '.join(sorted(builtin))}",
            hint="Rename it.",
        )
    return _with_digest(task, module.__name__)


def from_plugin(plugin: Plugin) -> Task:
    """The task of an installed package. Raises `OptionError`."""
    label = f"the task {plugin.entry.name} of the package {plugin.package}"
    loaded = plugin.load()
    if isinstance(loaded, ModuleType):
        loaded = getattr(loaded, "TASK", None)
    task = _checked(loaded, label)
    if task.name != plugin.entry.name:
        raise OptionError(
            f"{label} has another name than its entry point",
            given=task.name,
            allowed=plugin.entry.name,
            hint="Give both the same name.",
        )
    return _with_digest(task, plugin.entry.module)


def _checked(task: Any, label: str) -> Task:
    if not isinstance(task, Task):
        raise OptionError(
            f"{label} defines no task",
            given=None if task is None else type(task).__name__,
            allowed="TASK = Task(name=..., title=..., make=..., score=...)",
            hint="See docs/guide/evaluating.md.",
        )
    return task


def _with_digest(task: Task, module: str) -> Task:
    """The task with the digest of its source, so that runs notice another scorer."""
    return dataclasses.replace(task, metadata={**task.metadata, "digest": source_digest(module)})
