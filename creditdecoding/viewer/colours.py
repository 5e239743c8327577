"""The colours of confidence and credit, one scale for terminal, plots and page.

Confidence runs from orange (unsure) to blue (sure), the pair that every common kind of colour
blindness keeps apart; on
paper it also darkens evenly, on a dark page it brightens. Credit is violet.
"""

from __future__ import annotations

from collections.abc import Sequence

Ramp = Sequence[str]
"""Colours at evenly spaced values from 0 to 1, as #rrggbb; linear between them."""

LIGHT: Ramp = ("#fdf1de", "#fbd9a4", "#efba78", "#8fb3bd", "#2a7fc9")
DARK: Ramp = ("#3b2a1c", "#87562b", "#b98a5c", "#7fa9b8", "#6cc4ff")
INK: Ramp = ("#d9680b", "#c7762f", "#a88765", "#6f8a9e", "#2a86d1")
CREDIT: Ramp = ("#fbf3fa", "#dcb3d8", "#b069ab", "#6f2b72")

TEXT, QUIET, LINE, WRITTEN = "#1d2733", "#6b7785", "#9aa5b1", "#e9edf1"
"""On paper: texts, what only helps to read, lines, positions already written."""


def colour_at(ramp: Ramp, value: float) -> str:
    """The colour of `value`, clamped to 0..1, as #rrggbb."""
    place = min(max(value, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(place), len(ramp) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(rgb(ramp[low]), rgb(ramp[low + 1])))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of #rrggbb, 0 to 255 each."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
