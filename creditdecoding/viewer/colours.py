"""Colours of confidence and credit, the same in the terminal, figures and pages.

Confidence goes from orange (unsure) to blue (sure), which common kinds of colour blindness tell
apart. On paper it also darkens evenly, on a dark page it brightens. Credit is violet.
"""

from __future__ import annotations

from collections.abc import Sequence

Ramp = Sequence[str]
"""Colours at evenly spaced values from 0 to 1, as #rrggbb; linear between them."""

LIGHT: Ramp = ("#fdf1de", "#fbd9a4", "#efba78", "#8fb3bd", "#2a7fc9")
DARK: Ramp = ("#3b2a1c", "#87562b", "#b98a5c", "#7fa9b8", "#6cc4ff")
INK: Ramp = ("#d9680b", "#c7762f", "#a88765", "#6f8a9e", "#2a86d1")
CREDIT: Ramp = ("#fbf3fa", "#dcb3d8", "#b069ab", "#6f2b72")

SERIES = {
    "standard": "#46525f",
    "threshold": "#c75300",
    "credit": "#0069b4",
    "thrift": "#007a5a",
}
"""The colours of lines in all figures; what is not named here is grey (`REST`) or `EXTRA`.

Chosen from Okabe and Ito's palette, darkened until text in them has a contrast of 4.5 on white.
"""
EXTRA = "#8f4fa8"
REST = "#b4bdc7"

# on paper
TEXT = "#1d2733"
QUIET = "#5f6b79"  # secondary text
LINE = "#9aa5b1"
WRITTEN = "#e9edf1"  # positions written in an earlier pass


def colour_at(ramp: Ramp, value: float) -> str:
    """The colour of `value`, clamped to 0..1, as #rrggbb."""
    scaled = min(max(value, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(scaled), len(ramp) - 2)
    share = scaled - low
    mixed = (round(a + (b - a) * share) for a, b in zip(rgb(ramp[low]), rgb(ramp[low + 1])))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of #rrggbb, 0 to 255 each."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
