"""Numbers in the words of messages."""

from __future__ import annotations


def count(number: float, one: str, many: str = "") -> str:
    """A number with its noun: "1 pass", "2,000 passes". `many` is `one` with an s if not given."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{digits} {one if number == 1 else many or one + 's'}"
