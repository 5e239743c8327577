"""Two answers to one prompt next to each other in the terminal, played on one clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from creditdecoding.trace import Trace
from creditdecoding.viewer.frames import (
    Frame,
    Piece,
    answer_end,
    frames,
    initial_frame,
    masked_positions,
)
from creditdecoding.viewer.terminal import canvas
from creditdecoding.wording import count

FRAMES_A_SECOND = 20


@dataclass(frozen=True)
class Lane:
    """One answer of a race: its frames, and the seconds from its start to each of them."""

    name: str
    frames: Sequence[Frame]
    times: Sequence[float]
    colour: str = ""

    @property
    def seconds(self) -> float:
        """How long the answer took."""
        return self.times[-1]

    def at(self, seconds: float) -> Frame:
        """The last frame that there is after so many seconds."""
        shown = sum(start <= seconds for start in self.times)
        return self.frames[max(shown, 1) - 1]

    def is_done(self, seconds: float) -> bool:
        """Whether the answer is complete after so many seconds."""
        return seconds >= self.seconds


def make_lane(name: str, trace: Trace, piece: Piece, colour: str = "") -> Lane:
    """The lane of a finished trace; it begins with a frame of masks at 0 seconds."""
    start = len(trace.prompt)
    empty = initial_frame(masked_positions(trace), start, answer_end(trace, start))
    film = frames(trace, piece)
    began = trace.finish.began if trace.finish else 0.0
    times = [max(0.0, frame.seconds - began) for frame in film]
    return Lane(name, [empty, *film], [0.0, *times], colour)


def play(
    lanes: Sequence[Lane],
    *,
    ends: Collection[int] = (),
    slowdown: float = 1.0,
    console: Console,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Play the lanes `slowdown` times slower than they ran, until the last one is done."""
    last = max(lane.seconds for lane in lanes)
    began = clock()
    seconds = 0.0
    with Live(_screen(lanes, 0.0, ends), console=console, auto_refresh=False) as live:
        while seconds < last:
            sleep(1 / FRAMES_A_SECOND)
            seconds = min(last, (clock() - began) / slowdown)
            live.update(_screen(lanes, seconds, ends), refresh=True)


def _screen(lanes: Sequence[Lane], seconds: float, ends: Collection[int]) -> RenderableType:
    """All lanes in columns of one width, the clock below them."""
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in lanes:
        grid.add_column(ratio=1)
    grid.add_row(*(_pane(lane, seconds, ends) for lane in lanes))
    return Group(grid, Text(f" {seconds:.2f} s", style="bold"))


def _pane(lane: Lane, seconds: float, ends: Collection[int]) -> Panel:
    """The canvas of one lane, its name above, passes and time below."""
    frame = lane.at(seconds)
    status = f" {count(frame.nfe, 'pass', 'passes')} "
    if lane.is_done(seconds):
        status = f"{status}in {lane.seconds:.2f} s: done "
    return Panel(
        _padded(canvas(frame, ends), lane),
        title=Text(f" {lane.name} ", style=Style(bold=True, color=lane.colour or None)),
        title_align="left",
        subtitle=Text(status, style="bold" if lane.is_done(seconds) else "dim"),
        subtitle_align="left",
        box=box.ROUNDED,
        border_style="dim",
    )


def _padded(text: Text, lane: Lane) -> Text:
    """The text, as long as the lane's longest, so that panes do not change their height."""
    longest = max(len(canvas(frame).plain) for frame in (lane.frames[0], lane.frames[-1]))
    return text.append(" " * (longest - len(text.plain)))
