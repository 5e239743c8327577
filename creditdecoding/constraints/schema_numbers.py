"""The numbers of a schema: those between its bounds, and which of its constants these allow."""

from __future__ import annotations

import math
import operator
from decimal import Decimal
from typing import Any

from creditdecoding.constraints.language import Language, is_empty
from creditdecoding.constraints.numerals import (
    FRACTION_DIGITS,
    INTEGER_DIGITS,
    WHOLE_DIGITS,
    Bound,
    integer,
    number,
)
from creditdecoding.constraints.regex import whole_pattern
from creditdecoding.constraints.schema_keywords import NUMBER
from creditdecoding.constraints.schema_node import SchemaNode
from creditdecoding.errors import short_repr

ANY_INTEGER = whole_pattern(r"-?[0-9]+")
ANY_NUMBER = whole_pattern(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
"""Numbers of any size, as constants may be."""
_HOLDS = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}


def number_language(node: SchemaNode) -> Language:
    """The numbers that a schema allows. Raises `OptionError` if none of them can be written."""
    between = number(*_bounds(node))
    digits = f"at most {WHOLE_DIGITS} digits before the point and {FRACTION_DIGITS} after it"
    return ANY_NUMBER if is_constant(node) else _not_empty(node, between, f"number of {digits}")


def integer_language(node: SchemaNode) -> Language:
    """The integers that a schema allows. Raises `OptionError` if none of them can be written."""
    between = integer(*_bounds(node))
    digits = f"at most {INTEGER_DIGITS} digits"
    return ANY_INTEGER if is_constant(node) else _not_empty(node, between, f"integer of {digits}")


def is_constant(node: SchemaNode) -> bool:
    """Whether a schema lists its values, whose numbers `allows` looks at one by one."""
    return "const" in node.schema or "enum" in node.schema


def _not_empty(node: SchemaNode, language: Language, kind: str) -> Language:
    """The language. Raises `OptionError` if it is empty."""
    if not is_empty(language):
        return language
    limits = {name: node.schema[name] for name in NUMBER if name in node.schema}
    what = f"has no {kind} within {short_repr(limits)}"
    raise node.refuse(what, "Longer ones are not written: move the bounds, or list values.")


def allows(node: SchemaNode, value: Any) -> bool:
    """Whether a constant is no number, or one of the declared type within the bounds."""
    if not is_number(value):
        return True
    _bounds(node)  # raises for those that are no numbers
    names = node.types() if "type" in node.schema else ["number"]
    is_of_type = "number" in names or ("integer" in names and value == int(value))
    limits = [(name, holds) for name, holds in _HOLDS.items() if name in node.schema]
    return is_of_type and all(holds(value, node.schema[name]) for name, holds in limits)


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and (isinstance(value, int) or math.isfinite(value))


def _bounds(node: SchemaNode) -> tuple[Bound | None, Bound | None]:
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
