"""Decoding in the terminal: masks that turn into words while the model runs, and a trace as a
table.

Where nobody watches (a pipe, a file, a dumb terminal) only the final text comes out; NO_COLOR is
rich's business. Leaves to
others: what is in a frame (frames.py), colours (colour.py), running the model and what to print
besides (cli/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from creditdecoding.trace import Event, StepEvent, Trace
from creditdecoding.viewer.colours import CREDIT, INK, colour_at
from creditdecoding.viewer.frames import (
    Cell,
    Frame,
    Piece,
    answer_end,
    escape_controls,
    frames,
    initial_frame,
    next_frame,
    one_line,
)

MASK, END, GAP = "·", "∎", " … "
_UNDERLINE, _BOLD = 1.0, 2.0
"""Credit above which a token is underlined (more than one pass speaks for it), and above which it
is bold as well.
"""


def watch(
    events: Iterable[Event],
    trace: Trace,
    piece: Piece,
    *,
    ends: Collection[int] = (),
    decode: Callable[[Sequence[int]], str] | None = None,
    console: Console | None = None,
    delay: float = 0.0,
) -> Trace:
    """Consume the `events` of one row into `trace`, drawing each pass as it comes, and return it
    complete.

    `ends` are the ids that end an answer, drawn as ∎ (not where a given text is filled in);
    `decode` makes the final text where
    there is no terminal (default: the pieces joined); a frame stays at least `delay` seconds.
    """
    console = console or Console()
    if not console.is_terminal or console.is_dumb_terminal:
        for event in events:
            trace.add(event)
        console.out(
            decode(trace.tokens) if decode else "".join(map(piece, trace.tokens)), highlight=False
        )
        return trace
    start = len(trace.prompt)
    known = range(start, start + int(trace.settings.get("gen_length", 0))) if start else ()
    ends = ends if start else ()
    frame, shown = initial_frame(known, start), time.monotonic()
    with Live(_screen(frame, trace, ends, console), console=console, auto_refresh=False) as live:
        for event in events:
            trace.add(event)
            if isinstance(event, StepEvent):
                frame = _ended(next_frame(frame, event, piece, start), ends)
                time.sleep(max(0.0, delay - (time.monotonic() - shown)))
                shown = time.monotonic()
                live.update(_screen(frame, trace, ends, console), refresh=True)
        live.update(_screen(_final(frame, trace), trace, ends, console), refresh=True)
    return trace


def _ended(frame: Frame, ends: Collection[int]) -> Frame:
    """The frame with everything from its first written end token on marked as tail."""
    end = next(
        (cell.position for cell in frame.cells if cell.state != "masked" and cell.token in ends),
        None,
    )
    if end is None:
        return frame
    return replace(
        frame,
        cells=tuple(
            cell if cell.position < end else replace(cell, tail=True) for cell in frame.cells
        ),
    )


def _final(frame: Frame, trace: Trace) -> Frame:
    """The last frame without blocks that were never reached, its tail from where the answer ended."""
    end = answer_end(trace, len(trace.prompt))
    cells = (
        replace(cell, tail=end is not None and cell.position >= end)
        for cell in frame.cells
        if cell.block is not None
    )
    return replace(frame, cells=tuple(cells))


def print_trace(trace: Trace, piece: Piece, console: Console | None = None) -> None:
    """Print a trace pass by pass: block, step, masks left in the block, and each token written with
    its confidence and credit.
    """
    credited = any(step.credit is not None for step in trace.steps)
    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
        caption=_totals(trace),
        caption_justify="left",
        caption_style="",
    )
    for name in ("pass", "block", "step", "left"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column(
        "written: token, confidence" + (", credit" if credited else ""), overflow="fold"
    )
    film = frames(trace, piece)
    for number, frame in enumerate(film):
        written = Text("   ").join([*map(_entry, frame.committed), *map(_gone, frame.revoked)])
        last = number + 1 == len(film) or film[number + 1].block != frame.block
        grid.add_row(
            str(frame.nfe),
            str(frame.block + 1),
            str(frame.step + 1),
            str(frame.masks_left),
            written,
            end_section=last,
        )
    (console or Console()).print(grid)


def _entry(cell: Cell) -> Text:
    """`token` .98 1.7, the token coloured by its confidence."""
    confidence = cell.confidence or 0.0
    text = Text().append(
        _quoted(cell.text), style=Style(color=colour_at(INK, confidence), bold=True)
    )
    text.append(f" {_number(confidence)}", style="dim")
    if cell.credit is not None:
        text.append(f" {cell.credit:.1f}", style=Style(color=colour_at(CREDIT, 0.7)))
    return text


def _gone(cell: Cell) -> Text:
    """A token that was taken back."""
    return Text("back: ", style="dim").append(_quoted(cell.text), style=Style(strike=True))


def _quoted(text: str) -> str:
    """A token on one line, with the blanks at its edges visible."""
    bare = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    return "␣" * before + one_line(bare) + "␣" * (len(text) - before - len(bare))


def _number(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _totals(trace: Trace) -> Text:
    return Text(f"NFE {trace.nfe}   tokens {trace.token_count}   TPF {trace.tpf:.2f}", style="bold")


def _screen(frame: Frame, trace: Trace, ends: Collection[int], console: Console) -> RenderableType:
    """The canvas in a frame, the status line and the legend."""
    decoder = trace.settings.get("decoder")
    name = str(decoder["name"]) if isinstance(decoder, dict) and "name" in decoder else "decoding"
    text = canvas(frame, ends) if trace.finish else _fitted(frame, ends, console)
    panel = Panel(
        text,
        title=Text(f" {name} ", style="bold"),
        title_align="left",
        box=box.ROUNDED,
        border_style="dim",
        padding=(0, 1),
    )
    return Group(
        panel,
        _status(frame, trace),
        _legend(any(cell.credit is not None for cell in frame.cells), bool(console.no_color)),
    )


def _fitted(frame: Frame, ends: Collection[int], console: Console) -> Text:
    """The canvas, or as many of its lines as the terminal shows, with the current block at their
    end.
    """
    wide, room = max(1, console.width - 4), max(1, console.height - 5)
    lines = canvas(frame, ends).wrap(console, wide)
    if len(lines) <= room:
        return Text("\n").join(lines)
    asked = replace(frame, cells=tuple(cell for cell in frame.cells if cell.block is not None))
    until = max(room, len(canvas(asked, ends).wrap(console, wide)))
    return Text("\n").join(lines[until - room : until])


def canvas(frame: Frame, ends: Collection[int] = ()) -> Text:
    """The answer as far as it is known: masks as dots, candidates faint, written tokens coloured by
    confidence.
    """
    text, before = Text(), None
    for cell in frame.cells:
        if before is not None and cell.position != before + 1:
            text.append(GAP, style="dim")
        before = cell.position
        _draw(text, cell, ends)
    return text


def _draw(text: Text, cell: Cell, ends: Collection[int]) -> None:
    if cell.token is None:
        text.append(f"{MASK} ", style="dim")
    elif cell.tail or cell.token in ends:
        text.append(END, style="dim")
    elif cell.state == "masked":
        text.append(one_line(cell.text) or MASK, style="dim italic")
    else:
        shown = escape_controls(cell.text)
        lead = len(shown) - len(shown.lstrip())
        text.append(shown[:lead])
        text.append(shown[lead:], style=_style(cell))


def _style(cell: Cell) -> Style:
    """Confidence as colour, credit as underline and bold, what was written just now in reverse."""
    credit = cell.credit or 0.0
    colour = colour_at(INK, cell.confidence or 0.0)
    return Style(
        color=colour,
        underline=credit > _UNDERLINE,
        bold=credit > _BOLD,
        reverse=cell.state == "now",
    )


def _status(frame: Frame, trace: Trace) -> Text:
    done = trace.finish is not None
    tokens, tpf = (
        (len(trace.tokens), trace.tpf) if done and trace.prompt else (frame.written, frame.tpf)
    )
    text = Text(no_wrap=True, overflow="ellipsis")
    for name, value in (("NFE", str(frame.nfe)), ("tokens", str(tokens)), ("TPF", f"{tpf:.2f}")):
        text.append(f" {name} ", style="dim").append(f"{value:<5}", style="bold")
    place = (
        f"block {frame.block + 1}  step {frame.step + 1}" if frame.nfe else "before the first pass"
    )
    return text.append(
        f"  done in {trace.seconds:.2f} s" if done else f"  {place}",
        style="green" if done else "dim",
    )


def _legend(credited: bool, plain: bool) -> Text:
    """How to read the canvas, in one line."""
    text = Text(" ", style="dim", no_wrap=True, overflow="ellipsis")
    if not plain:
        text.append("unsure ")
        for step in range(8):
            text.append("━", style=Style(color=colour_at(INK, step / 7), dim=False))
        text.append(" sure  ")
    text.append(f"{MASK} mask  ").append("candidate", style="italic").append("  ").append(
        "just written", style="reverse"
    )
    if credited:
        text.append("  credit ").append(f">{_UNDERLINE:.0f}", style="underline").append(" ")
        text.append(f">{_BOLD:.0f}", style="underline bold")
    return text.append(f"  {END} end")
