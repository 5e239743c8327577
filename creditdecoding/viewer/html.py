"""Traces as one stand-alone HTML page: nothing is fetched, the frames lie in the page as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from creditdecoding.trace import Trace
from creditdecoding.viewer.colours import DARK, INK, LIGHT
from creditdecoding.viewer.frames import Piece, frame_deltas, frames
from creditdecoding.viewer.player import BODY, PLAY, SCRIPT, STYLE

_HARMLESS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def trace_html(traces: Sequence[tuple[str, Trace]], piece: Piece, title: str) -> str:
    """A page that plays named traces side by side on one slider; tokens carry confidence, credit
    and the pass that wrote them.
    """
    return player_html(
        title,
        f"<header><h1>{escape(title)}</h1></header>\n{BODY}",
        [_trace(name, trace, piece) for name, trace in traces],
        PLAY,
    )


def player_html(
    title: str, body: str, traces: Sequence[dict[str, Any]], script: str, style: str = ""
) -> str:
    """A stand-alone page around the player of page.py: `body` holds `BODY`, `script` runs behind
    the player's own.
    """
    data = {"ramps": {"light": LIGHT, "dark": DARK, "ink": INK}, "traces": traces}
    embedded = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_HARMLESS)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n'
        f'<script type="application/json" id="data">{embedded}</script>\n<script>{SCRIPT}{script}</script>\n</body>\n</html>\n'
    )


def _trace(name: str, trace: Trace, piece: Piece) -> dict[str, Any]:
    """Name, positions, which cells are tail, and the frames as changes."""
    film = frames(trace, piece)
    cells = film[-1].cells if film else ()
    tail = [index for index, cell in enumerate(cells) if cell.tail]
    return {
        "name": name,
        "positions": [cell.position for cell in cells],
        "tail": tail,
        "frames": frame_deltas(film),
    }
