"""A small picture for notebooks: which pass wrote which position of an answer, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_MAX_COLUMNS = 128
_WIDTH = 640
_HEIGHT = 120
_MAX_TEXT = 1000
_UNSURE = (217, 104, 11)  # orange
_SURE = (42, 134, 209)  # blue


def pass_map(written: Mapping[int, tuple[int, float]], passes: int) -> str:
    """Positions from left to right and passes from top to bottom, coloured by confidence.

    `written`: position -> the pass that wrote it, from 0, and its confidence. In a long answer
    neighbouring positions share a bar, which reaches from their first pass to their last.
    """
    if not written:
        return ""
    start = min(written)
    length = max(written) - start + 1
    columns = min(length, _MAX_COLUMNS)
    entries_of: dict[int, list[tuple[int, float]]] = {}
    for position, entry in written.items():
        entries_of.setdefault((position - start) * columns // length, []).append(entry)
    width = _WIDTH / columns
    height = _HEIGHT / max(passes, 1)
    bars = []
    for column, entries in sorted(entries_of.items()):
        first = min(number for number, _ in entries)
        last = max(number for number, _ in entries)
        colour = _colour(sum(confidence for _, confidence in entries) / len(entries))
        corner = f'x="{column * width:.1f}" y="{first * height:.1f}"'
        size = f'width="{width * 0.9:.1f}" height="{(last - first + 1) * height:.1f}"'
        bars.append(f'<rect {corner} {size} fill="{colour}"/>')
    label = 'aria-label="Positions from left to right, the pass that wrote each from top to bottom"'
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {label} {box}>{"".join(bars)}</svg>'


def html_card(caption: str, drawing: str, text: str = "") -> str:
    """A text, which is cut if it is long, a drawing and a caption, as HTML."""
    body = escape(shorten(text, _MAX_TEXT))
    if body:
        body = f'<pre style="white-space:pre-wrap">{body}</pre>'
    return f"<div>{body}<div>{drawing}</div><small>{escape(caption)}</small></div>"


def shorten(text: str, limit: int) -> str:
    """The text; if it is longer than `limit` characters, its beginning and an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _colour(confidence: float) -> str:
    """From orange to blue."""
    share = min(max(confidence, 0.0), 1.0)
    channels = (round(low + (high - low) * share) for low, high in zip(_UNSURE, _SURE))
    return "#" + "".join(f"{channel:02x}" for channel in channels)
