"""Numbers between bounds as languages.

A number is written without exponent, with at most `WHOLE_DIGITS` digits before the point and
`FRACTION_DIGITS` after it: fifteen in all, which a double keeps apart, so that what lies on one
side of a bound in decimals lies there as a double.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from creditdecoding.constraints.language import (
    DIGIT,
    EMPTY,
    Chars,
    Either,
    Language,
    Repeated,
    joined,
    optional,
)

WHOLE_DIGITS = 9
FRACTION_DIGITS = 6
INTEGER_DIGITS = 15
_NOTHING = Either(())


@dataclass(frozen=True)
class Bound:
    """An end of a range; `open` if the value itself is outside."""

    value: Decimal
    open: bool = False


ZERO = Bound(Decimal(0))
ABOVE_ZERO = Bound(Decimal(0), open=True)
LARGEST_INTEGER = Bound(Decimal(10**INTEGER_DIGITS - 1))
BELOW_DECIMALS = Bound(Decimal(10**WHOLE_DIGITS), open=True)


def number(low: Bound | None, high: Bound | None) -> Language:
    """Decimal numbers between bounds, None for no bound."""
    return _signed(low, high, is_integer=False)


def integer(low: Bound | None, high: Bound | None) -> Language:
    """Whole numbers between bounds, None for no bound."""
    return _signed(low, high, is_integer=True)


def _signed(
    low: Bound | None,
    high: Bound | None,
    is_integer: bool,
) -> Language:
    """Those from zero on, and those below it; zero has no sign."""
    options: list[Language] = []
    if high is None or not _is_below(high, ZERO):
        lowest = ZERO if low is None or _is_below(low, ZERO) else low
        options.append(_magnitudes(lowest, high, is_integer))
    if low is None or _is_below(low, ABOVE_ZERO):
        smallest = ABOVE_ZERO
        if high is not None and _is_below(high, ABOVE_ZERO):
            smallest = max(
                ABOVE_ZERO,
                _negated(high),
                key=lambda b: (b.value, b.open),
            )
        largest = None if low is None else _negated(low)
        options.append(
            joined(
                "-",
                _magnitudes(smallest, largest, is_integer),
            )
        )
    return Either(tuple(options))


def _is_below(bound: Bound, other: Bound) -> bool:
    return bound.value < other.value


def _negated(bound: Bound) -> Bound:
    return Bound(-bound.value, bound.open)


def _magnitudes(low: Bound, high: Bound | None, is_integer: bool) -> Language:
    """Numbers from `low` >= 0 on."""
    largest = LARGEST_INTEGER if is_integer else BELOW_DECIMALS
    if high is None or high.value > largest.value:
        high = largest
    if low.value > high.value:
        return _NOTHING
    return _integers(low, high) if is_integer else _decimals(low, high)


def _integers(low: Bound, high: Bound) -> Language:
    """Whole numbers between bounds that are not negative."""
    first = _floor(low)
    last = _floor(high)
    if low.open or low.value != first:
        first += 1
    if high.open and high.value == last:
        last -= 1
    return _whole_between(first, last)


def _decimals(low: Bound, high: Bound) -> Language:
    """Numbers with a fraction between bounds that are not negative."""
    first = _floor(low)
    last = _floor(high)
    if first == last:
        return joined(
            str(first),
            _fraction(
                _digits(low),
                low.open,
                _digits(high),
                high.open,
            ),
        )
    return Either(
        (
            joined(
                str(first),
                _fraction(_digits(low), low.open, None, False),
            ),
            joined(
                _whole_between(first + 1, last - 1),
                _fraction("", False, None, False),
            ),
            joined(
                str(last),
                _fraction("", False, _digits(high), high.open),
            ),
        )
    )


def _floor(bound: Bound) -> int:
    return int(bound.value // 1)


def _digits(bound: Bound) -> str:
    """The digits after the point, without zeros at the end."""
    _, _, fraction = f"{bound.value % 1:f}".partition(".")
    return fraction.rstrip("0")


def _whole_between(first: int, last: int) -> Language:
    """The decimal forms of whole numbers, without leading zeros."""
    options = []
    for digits in range(len(str(first)), len(str(max(last, 0))) + 1):
        low = max(
            first,
            10 ** (digits - 1) if digits > 1 else 0,
        )
        high = min(last, 10**digits - 1)
        if low <= high:
            options.append(_same_length(str(low), str(high)))
    return Either(tuple(options))


def _same_length(low: str, high: str) -> Language:
    """Digit strings between two of the same length."""
    if set(low) <= {"0"} and set(high) <= {"9"}:
        return Repeated(DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return joined(low[0], _same_length(low[1:], high[1:]))
    rest = len(low) - 1
    options = [
        joined(low[0], _same_length(low[1:], "9" * rest)),
        joined(high[0], _same_length("0" * rest, high[1:])),
    ]
    if int(high[0]) - int(low[0]) > 1:
        between = _digit_from(int(low[0]) + 1, int(high[0]) - 1)
        options.append(joined(between, Repeated(DIGIT, rest, rest)))
    return Either(tuple(options))


def _digit_from(first: int, last: int) -> Chars:
    return Chars(((48 + first, 48 + last),)) if first <= last else Chars(())


def _fraction(
    low: str,
    low_open: bool,
    high: str | None,
    high_open: bool,
) -> Language:
    """What may follow the whole part: nothing, or a point and digits.

    The fraction lies between the digits `low` and `high`; without `high` anything from `low` on.
    """
    allowed = _between(
        low,
        low_open,
        high,
        high_open,
        FRACTION_DIGITS,
        True,
    )
    has_none = (not low and not low_open) and not (high == "" and high_open)
    fraction = joined(".", allowed)
    return optional(fraction) if has_none else fraction


def _between(
    low: str | None,
    low_open: bool,
    high: str | None,
    high_open: bool,
    left: int,
    is_first: bool,
) -> Language:
    """Digits of a fraction, at most `left`; None: that end no longer binds.

    After the digits so far the fraction may end if both ends allow it.
    """
    if low is None and high is None:
        return Repeated(DIGIT, int(is_first), left)
    options: list[Language] = []
    if not is_first and _may_end(low, low_open, high, high_open):
        options.append(EMPTY)
    if not left:
        return Either(tuple(options))
    lowest = int((low or "0")[0])
    highest = 9 if high is None else int((high or "0")[0])
    for digit in {lowest, highest} if lowest <= highest else ():
        below = low[1:] if low is not None and digit == lowest else None
        above = high[1:] if high is not None and digit == highest else None
        rest = _between(
            below,
            low_open,
            above,
            high_open,
            left - 1,
            False,
        )
        options.append(joined(str(digit), rest))
    inside = _digit_from(lowest + 1, highest - 1)
    return Either(
        (
            *options,
            joined(inside, Repeated(DIGIT, 0, left - 1)),
        )
    )


def _may_end(
    low: str | None,
    low_open: bool,
    high: str | None,
    high_open: bool,
) -> bool:
    """Whether the fraction may end here: where an end still binds, it equals the digits so far."""
    above = low is None or (not low and not low_open)
    below = high is None or bool(high) or not high_open
    return above and below
