"""Traces as one stand-alone HTML page: nothing is fetched, the frames are in the page as JSON.

The script of the page draws pass after pass of every trace. It puts token texts into the page as
text, never as HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import escape

from creditdecoding.trace import Trace
from creditdecoding.viewer.colours import DARK, INK, LIGHT
from creditdecoding.viewer.frames import Piece, frame_deltas, frames
from creditdecoding.viewer.labels import spec_label

_STATIC = Path(__file__).with_name("static")
_TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(_STATIC), autoescape=True)
_TEMPLATES.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}


def trace_html(
    traces: Sequence[tuple[str, Trace]],
    piece: Piece,
    title: str,
    about: Mapping[str, str] | None = None,
) -> str:
    """A page that plays named traces next to each other on one slider.

    Tokens show their confidence, credit and the pass that wrote them. `piece` gives the text of a
    token id; `about` are lines below the title, by name.
    """
    lines = [f"<p><b>{escape(name)}</b> {escape(line)}</p>" for name, line in (about or {}).items()]
    header = f"<header><h1>{escape(title)}</h1>{''.join(lines)}</header>"
    return player_html(
        title,
        header,
        [_trace_data(name, trace, piece) for name, trace in traces],
        _read("replay.js"),
    )


def player_html(
    title: str, header: str, traces: Sequence[dict[str, Any]], script: str, style: str = ""
) -> str:
    """A stand-alone page with the player of traces.

    `header` is HTML above the player; `script` and `style` come after the player's own.
    """
    return _TEMPLATES.get_template("player.html").render(
        title=title,
        header=header,
        style=_read("player.css") + style,
        script=_read("player.js") + script,
        data={"ramps": {"light": LIGHT, "dark": DARK, "ink": INK}, "traces": traces},
    )


def _read(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _trace_data(name: str, trace: Trace, piece: Piece) -> dict[str, Any]:
    """What the player reads: positions, which cells are tail, and the frames as deltas."""
    film = frames(trace, piece)
    cells = film[-1].cells if film else ()
    return {
        "name": spec_label(name),
        "positions": [cell.position for cell in cells],
        "tail": [index for index, cell in enumerate(cells) if cell.tail],
        "frames": frame_deltas(film),
    }
