"""How many items a command takes where its user did not say: the default, or all of a list that is
shorter, with a line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from creditdecoding.tasks.base import Task


def items_per_task(limit: int | None, default: int, families: Iterable[Task]) -> int:
    """The limit that was asked for, which a family may not be shorter than; or the default."""
    from creditdecoding.tasks.base import DefaultLimit

    if limit is not None:
        return limit
    for family in families:
        if family.fixed_items is not None and len(family.fixed_items) < default:
            typer.echo(
                f"{family.name}: all of its {len(family.fixed_items)} items (--limit is {default} by default)",
                err=True,
            )
    return DefaultLimit(default)
