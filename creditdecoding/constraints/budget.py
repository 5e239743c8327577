"""Limits on the work that a constraint may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from creditdecoding.errors import OptionError

HINT = "Lower lengths and repetitions, or split it over several requests."


class Budget:
    """Counts what is made for one constraint, and refuses more than its limits."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        """`limits`: how many there may be of each kind, which errors name."""
        self._limits = limits
        self._spent: Counter[str] = Counter()

    def spend(self, kind: str, count: int = 1) -> None:
        """Count some more of a kind. Raises `OptionError` if there are too many."""
        self._spent[kind] += count
        if self._spent[kind] > self._limits[kind]:
            raise too_large(f"more than {self._limits[kind]} {kind}")


def too_large(size: str) -> OptionError:
    """The error for a constraint of this size."""
    return OptionError("the constraint is too large", given=size, hint=HINT)
