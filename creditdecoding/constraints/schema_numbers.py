"""The numbers of a schema: what its bounds allow."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from creditdecoding.constraints.numerals import Bound
from creditdecoding.constraints.schema_node import SchemaNode


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and (isinstance(value, int) or math.isfinite(value))


def bounds(node: SchemaNode) -> tuple[Bound | None, Bound | None]:
    """The tightest bounds of a number."""
    minimum = _bound(node, "minimum")
    above = _bound(node, "exclusiveMinimum", is_open=True)
    maximum = _bound(node, "maximum")
    below = _bound(node, "exclusiveMaximum", is_open=True)
    low = max(
        filter(None, (minimum, above)),
        key=lambda bound: (bound.value, bound.open),
        default=None,
    )
    high = min(
        filter(None, (maximum, below)),
        key=lambda bound: (bound.value, not bound.open),
        default=None,
    )
    if low and high and low.value > high.value:
        raise node.refuse("has a minimum above its maximum", "Correct them.")
    return low, high


def _bound(node: SchemaNode, name: str, is_open: bool = False) -> Bound | None:
    """The bound that a keyword gives; None if it is not there."""
    if name not in node.schema:
        return None
    value = node.schema[name]
    if not is_number(value):
        raise node.refuse(f"has a {name} that is not a number", "Give a number.")
    return Bound(Decimal(repr(value)), is_open)
