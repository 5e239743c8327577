"""Decoding in the terminal: masks that turn into text while the model runs, and traces as tables.

Without a terminal (a pipe, a file, TERM=dumb) only the final text is printed. Rich reads NO_COLOR.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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

MASK = "·"
END = "∎"
GAP = " … "
UNDERLINE_CREDIT = 1.0  # above it a token is underlined: more than one pass supports it
BOLD_CREDIT = 2.0
PANEL_WIDTH = 4  # columns of the panel around the canvas
OTHER_LINES = 5  # of the panel's border, the status and the legend


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
    """Add the `events` of one request to `trace`, drawing each pass, and return the trace.

    `ends` are the ids that end an answer, drawn as ∎ except for infilling. `decode` makes the final
    text if there is no terminal (default: the pieces joined). A frame stays at least `delay`
    seconds.
    """
    console = console or Console()
    if console.is_terminal and not console.is_dumb_terminal:
        _animate(events, trace, piece, ends if trace.prompt else (), console, delay)
        return trace
    for event in events:
        trace.add(event)
    text = decode(trace.tokens) if decode else "".join(map(piece, trace.tokens))
    console.out(text, highlight=False)
    return trace


def _animate(
    events: Iterable[Event],
    trace: Trace,
    piece: Piece,
    ends: Collection[int],
    console: Console,
    delay: float,
) -> None:
    start = len(trace.prompt)
    length = int(trace.settings.get("gen_length", 0)) if start else 0
    frame = initial_frame(range(start, start + length), start)
    shown_at = time.monotonic()
    with Live(_screen(frame, trace, ends, console), console=console, auto_refresh=False) as live:
        for event in events:
            trace.add(event)
            if isinstance(event, StepEvent):
                frame = _with_tail(next_frame(frame, event, piece, start), ends)
                time.sleep(max(0.0, delay - (time.monotonic() - shown_at)))
                shown_at = time.monotonic()
                live.update(_screen(frame, trace, ends, console), refresh=True)
        live.update(_screen(_last_frame(frame, trace), trace, ends, console), refresh=True)


def _with_tail(frame: Frame, ends: Collection[int]) -> Frame:
    """The frame with everything from its first written end token on as tail."""
    for cell in frame.cells:
        if cell.state != "masked" and cell.token in ends:
            return _mark_tail(frame, cell.position)
    return frame


def _last_frame(frame: Frame, trace: Trace) -> Frame:
    """The frame without blocks that were never decoded; its tail starts where the answer ended."""
    decoded = tuple(cell for cell in frame.cells if cell.block is not None)
    return _mark_tail(replace(frame, cells=decoded), answer_end(trace, len(trace.prompt)))


def _mark_tail(frame: Frame, end: int | None) -> Frame:
    """The frame with the cells from position `end` on as tail, and no others."""
    cells = (replace(cell, tail=end is not None and cell.position >= end) for cell in frame.cells)
    return replace(frame, cells=tuple(cells))


def print_trace(
    trace: Trace,
    piece: Piece,
    console: Console | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Print a trace as a table: for each pass its block and step, the masks left in the block, and
    the tokens written with their confidence and credit. `about` are lines above it, by name.
    """
    console = console or Console()
    _print_lines(console, about or {})
    has_credit = any(step.credit is not None for step in trace.steps)
    totals = f"NFE {trace.nfe}   tokens {trace.token_count}   TPF {trace.tpf:.2f}"
    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
        caption=Text(totals, style="bold"),
        caption_justify="left",
        caption_style="",
    )
    for name in ("pass", "block", "step", "left"):
        grid.add_column(name, justify="right", no_wrap=True)
    credit_title = ", credit" if has_credit else ""
    grid.add_column(f"written: token, confidence{credit_title}", overflow="fold")
    film = frames(trace, piece)
    for frame, following in zip(film, [*film[1:], None]):
        grid.add_row(
            str(frame.nfe),
            str(frame.block + 1),
            str(frame.step + 1),
            str(frame.masks_left),
            Text("   ").join(_written_texts(frame)),
            end_section=following is None or following.block != frame.block,
        )
    console.print(grid)


def _print_lines(console: Console, lines: Mapping[str, str]) -> None:
    for name, line in lines.items():
        text = Text(f"{name:<9}", style="bold")
        console.print(text.append(escape_controls(line), style="not bold"))


def _written_texts(frame: Frame) -> list[Text]:
    """What a pass wrote and masked again; the end of the answer and what follows it are folded into
    a number.
    """
    texts = [_committed_text(cell) for cell in frame.committed if not cell.tail]
    ends = len(frame.committed) - len(texts)
    texts += [Text(f"{END} {ends}", style="dim")] if ends else []
    return [*texts, *map(_revoked_text, frame.revoked)]


def _committed_text(cell: Cell) -> Text:
    """`token` .98 1.7, the token coloured by its confidence."""
    confidence = cell.confidence or 0.0
    style = Style(color=colour_at(INK, confidence), bold=True)
    text = Text().append(_quoted(cell.text), style=style)
    text.append(f" {confidence:.2f}".replace(" 0.", " ."), style="dim")
    if cell.credit is not None:
        text.append(f" {cell.credit:.1f}", style=Style(color=colour_at(CREDIT, 0.7)))
    return text


def _revoked_text(cell: Cell) -> Text:
    """A token that was masked again."""
    return Text("back: ", style="dim").append(_quoted(cell.text), style=Style(strike=True))


def _quoted(text: str) -> str:
    """A token on one line, with the blanks at its edges visible."""
    bare = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    after = len(text) - before - len(bare)
    return "␣" * before + one_line(bare) + "␣" * after


def _screen(frame: Frame, trace: Trace, ends: Collection[int], console: Console) -> RenderableType:
    """The canvas in a panel, the status line and the legend."""
    decoder = trace.settings.get("decoder")
    name = decoder.get("name", "decoding") if isinstance(decoder, dict) else "decoding"
    panel = Panel(
        canvas(frame, ends) if trace.finish else _cropped_canvas(frame, ends, console),
        title=Text(f" {name} ", style="bold"),
        title_align="left",
        box=box.ROUNDED,
        border_style="dim",
        padding=(0, 1),
    )
    has_credit = any(cell.credit is not None for cell in frame.cells)
    return Group(panel, _status(frame, trace), _legend(has_credit, bool(console.no_color)))


def _cropped_canvas(frame: Frame, ends: Collection[int], console: Console) -> Text:
    """The canvas, or the lines of it that fit the terminal, the current block last."""
    width = max(1, console.width - PANEL_WIDTH)
    height = max(1, console.height - OTHER_LINES)
    lines = list(canvas(frame, ends).wrap(console, width))
    if len(lines) > height:
        decoded = tuple(cell for cell in frame.cells if cell.block is not None)
        decoded_lines = canvas(replace(frame, cells=decoded), ends).wrap(console, width)
        last = max(height, len(decoded_lines))
        lines = lines[last - height : last]
    return Text("\n").join(lines)


def canvas(frame: Frame, ends: Collection[int] = ()) -> Text:
    """The answer so far: masks as dots, candidates faint, written tokens coloured by confidence."""
    text = Text()
    for cell, previous in zip(frame.cells, (None, *frame.cells)):
        if previous is not None and cell.position != previous.position + 1:
            text.append(GAP, style="dim")
        is_end = _is_end(cell, ends)
        if not (is_end and previous is not None and _is_end(previous, ends)):
            _append_cell(text, cell, ends)
    return text


def _is_end(cell: Cell, ends: Collection[int]) -> bool:
    return cell.token is not None and (cell.tail or cell.token in ends)


def _append_cell(text: Text, cell: Cell, ends: Collection[int]) -> None:
    if cell.token is None:
        text.append(f"{MASK} ", style="dim")
    elif _is_end(cell, ends):
        text.append(END, style="dim")
    elif cell.state == "masked":
        text.append(one_line(cell.text) or MASK, style="dim italic")
    else:
        token = escape_controls(cell.text)
        bare = token.lstrip()
        text.append(token.removesuffix(bare))
        text.append(bare, style=_written_style(cell))


def _written_style(cell: Cell) -> Style:
    """Confidence as colour, credit as underline and bold, reverse for what was just written."""
    credit = cell.credit or 0.0
    return Style(
        color=colour_at(INK, cell.confidence or 0.0),
        underline=credit > UNDERLINE_CREDIT,
        bold=credit > BOLD_CREDIT,
        reverse=cell.state == "now",
    )


def _status(frame: Frame, trace: Trace) -> Text:
    is_done = trace.finish is not None
    tokens = frame.written
    tpf = frame.tpf
    if is_done and trace.prompt:
        tokens = len(trace.tokens)
        tpf = trace.tpf
    text = Text(no_wrap=True, overflow="ellipsis")
    for name, value in (("NFE", str(frame.nfe)), ("tokens", str(tokens)), ("TPF", f"{tpf:.2f}")):
        text.append(f" {name} ", style="dim").append(f"{value:<5}", style="bold")
    if is_done:
        return text.append(f"  done in {trace.seconds:.2f} s", style="green")
    if frame.nfe == 0:
        return text.append("  before the first pass", style="dim")
    return text.append(f"  block {frame.block + 1}  step {frame.step + 1}", style="dim")


def _legend(has_credit: bool, no_colour: bool) -> Text:
    """How to read the canvas, in one line."""
    text = Text(" ", style="dim", no_wrap=True, overflow="ellipsis")
    if not no_colour:
        text.append("unsure ")
        for step in range(8):
            text.append("━", style=Style(color=colour_at(INK, step / 7), dim=False))
        text.append(" sure  ")
    text.append(f"{MASK} mask  ").append("candidate", style="italic")
    text.append("  ").append("just written", style="reverse")
    if has_credit:
        text.append("  credit ").append(f">{UNDERLINE_CREDIT:.0f}", style="underline").append(" ")
        text.append(f">{BOLD_CREDIT:.0f}", style="underline bold")
    return text.append(f"  {END} end")
