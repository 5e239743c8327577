"""Progress of long work: a bar on a terminal, plain lines in a file or a log.

    samples: 312 of 864, 12 min left

The first line comes after a few seconds, then one a minute, even if nothing was counted in between.
Work that ends before the first line prints nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

FIRST_SECONDS = 5.0
LINE_SECONDS = 60.0


@dataclass
class WorkProgress:
    """How much of some work was done at first (`initial`), is done now, and is there in all."""

    text: str
    initial: int = 0
    done: int = 0
    total: int | None = None

    def begin(self, done: int, total: int) -> None:
        """Set how much is done already and how much there is."""
        self.initial = done
        self.done = done
        self.total = total


class ProgressDisplay(Protocol):
    """Shows the progress of work to the user."""

    def start(self) -> None:
        """Begin to show; the counts are known."""

    def advance(self) -> None:
        """The counts have changed."""

    def stop(self) -> None:
        """Show no more; may be called at any time."""


def make_display(work: WorkProgress, stream: TextIO) -> ProgressDisplay:
    """A bar if `stream` is a terminal, lines otherwise."""
    if is_terminal(stream):
        return ProgressBar(work, stream, (MofNCompleteColumn(),), speed_period=300)
    return ProgressLines(work, stream.write)


def is_terminal(stream: TextIO) -> bool:
    """Whether text on this stream can be overwritten."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class ProgressBar:
    """A bar that disappears when the work is done.

    The time left is estimated from the speed of the last `speed_period` seconds.
    """

    def __init__(
        self,
        work: WorkProgress,
        stream: TextIO,
        columns: tuple[ProgressColumn, ...],
        speed_period: float,
    ) -> None:
        self._work = work
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
            speed_estimate_period=speed_period,
        )
        self._task = self._bar.add_task(work.text, total=None)

    def start(self) -> None:
        """Draw the bar; again, if the work is another."""
        self.advance()
        with suppress(LiveError):  # another bar is on the screen
            self._bar.start()

    def advance(self) -> None:
        """Update the bar."""
        work = self._work
        self._bar.update(self._task, description=work.text, completed=work.done, total=work.total)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar.live.is_started:
            self._bar.stop()


class ProgressLines:
    """A line now and then, written by a thread, so that there is output between two counts."""

    def __init__(
        self,
        work: WorkProgress,
        write: Callable[[str], Any],
        clock: Callable[[], float] = time.monotonic,
        amount: Callable[[int], str] = str,
    ) -> None:
        self._work = work
        self._write = write
        self._clock = clock
        self._amount = amount
        self._started_at = 0.0
        self._next_line = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the clock and the thread that writes lines; again, if the work is another."""
        self.begin()
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Start the clock."""
        self._started_at = self._clock()
        self._next_line = self._started_at + FIRST_SECONDS

    def advance(self) -> None:
        """Nothing: the next line has the new count."""

    def stop(self) -> None:
        """Write no more lines."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def write_if_due(self) -> float:
        """Write a line if it is time; return the seconds until the next one."""
        now = self._clock()
        if now >= self._next_line:
            self._write(self.line(now) + "\n")
            self._next_line = now + LINE_SECONDS
        return self._next_line - now

    def line(self, now: float) -> str:
        """The progress at this time."""
        work = self._work
        if work.total is None:
            return work.text
        text = f"{work.text}: {self._amount(work.done)} of {self._amount(work.total)}"
        newly_done = work.done - work.initial
        if newly_done <= 0 or work.done >= work.total:
            return text
        seconds_left = (now - self._started_at) / newly_done * (work.total - work.done)
        return f"{text}, {duration(seconds_left)} left"

    def _run(self) -> None:
        """Body of the thread; ends quietly if standard error is closed."""
        with suppress(OSError, ValueError):
            while not self._stopped.wait(self.write_if_due()):
                pass


def duration(seconds: float) -> str:
    """A time for people: seconds up to a minute and a half, then minutes, then hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
