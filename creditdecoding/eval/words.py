"""A difference with its interval, as text."""

from __future__ import annotations

from collections.abc import Mapping


def signed(estimate: Mapping[str, float]) -> str:
    """`-0.4 [-1.2, +0.3]`."""
    return f"{estimate['value']:+.1f} [{estimate['low']:+.1f}, {estimate['high']:+.1f}]"
