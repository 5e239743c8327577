"""How many items of each task a command takes if `--limit` is not given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from creditdecoding.wording import count

if TYPE_CHECKING:
    from creditdecoding.tasks.base import Task


def items_per_task(limit: int | None, default: int, tasks: Iterable[Task]) -> int:
    """The given limit, which every task must reach, or a default, which it need not reach.

    Says on standard error which tasks have fewer items than the default.
    """
    from creditdecoding.tasks.base import DefaultLimit

    if limit is not None:
        return limit
    for task in tasks:
        if task.fixed_items is not None and len(task.fixed_items) < default:
            items = count(len(task.fixed_items), "item")
            message = f"{task.name}: all of its {items} (--limit is {default} by default)"
            typer.echo(message, err=True)
    return DefaultLimit(default)
