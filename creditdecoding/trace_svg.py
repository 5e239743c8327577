"""A small picture for notebooks: which pass wrote which position of an answer, as SVG of bounded
size.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_COLUMNS = 128
_WIDTH = 640
_HEIGHT = 120
_TEXT = 1000
_UNSURE = (217, 104, 11)
_SURE = (42, 134, 209)


def pass_map(written: Mapping[int, tuple[int, float]], passes: int) -> str:
    """Positions from left to right, passes from top to bottom, orange where the model was unsure
    and blue where it was sure.

    `written`: position -> the pass that wrote it, from 0, and its confidence. Of a long answer
    neighbours share a bar, which reaches
    from their first pass to their last.
    """
    if not written:
        return ""
    start = min(written)
    length = max(written) - start + 1
    columns = min(length, _COLUMNS)
    shared: dict[int, list[tuple[int, float]]] = {}
    for position, entry in written.items():
        shared.setdefault((position - start) * columns // length, []).append(entry)
    width = _WIDTH / columns
    height = _HEIGHT / max(passes, 1)
    bars = []
    for column, entries in sorted(shared.items()):
        first = min(number for number, _ in entries)
        last = max(number for number, _ in entries)
        colour = _colour(sum(confidence for _, confidence in entries) / len(entries))
        place = f'x="{column * width:.1f}" y="{first * height:.1f}"'
        size = f'width="{width * 0.9:.1f}" height="{(last - first + 1) * height:.1f}"'
        bars.append(f'<rect {place} {size} fill="{colour}"/>')
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {box}>{"".join(bars)}</svg>'


def html_card(words: str, drawing: str, text: str = "") -> str:
    """A text, a line of words about it, and a drawing, as HTML; a long text is cut."""
    cut = shorten(text, _TEXT)
    said = f'<pre style="white-space:pre-wrap">{escape(cut)}</pre>' if cut else ""
    return f"<div>{said}<div>{drawing}</div><small>{escape(words)}</small></div>"


def shorten(text: str, most: int) -> str:
    """The text, of a longer one the beginning."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _colour(confidence: float) -> str:
    """From orange to blue."""
    share = min(max(confidence, 0.0), 1.0)
    mixed = (round(low + (high - low) * share) for low, high in zip(_UNSURE, _SURE))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
