"""How far a long piece of work is: a bar on a terminal, plain lines in a file or a log.

    samples: 312 of 864, 12 min left

The first line comes after a few seconds, then one a minute, whether or not anything was counted in
between. Work that ends before the first
line says nothing.
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
    """What is counted, how many of it were there when the work began, are done, and are to be done
    in all.
    """

    text: str
    initial: int = 0
    done: int = 0
    total: int | None = None

    def begin(self, done: int, total: int) -> None:
        """Say how many are done already and how many there are."""
        self.initial = done
        self.done = done
        self.total = total


class ProgressDisplay(Protocol):
    """What shows how far the work is."""

    def start(self) -> None:
        """Begin to show; the counts are known."""

    def advance(self) -> None:
        """The counts have changed."""

    def stop(self) -> None:
        """Show no more; safe to call at any time."""


def make_display(
    far: WorkProgress,
    stream: TextIO,
    columns: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),),
    period: float = 300,
) -> ProgressDisplay:
    """A bar where `stream` is a terminal, lines elsewhere; time left is estimated from the last
    `period` seconds on a bar.
    """
    if is_terminal(stream):
        return ProgressBar(far, stream, columns, period)
    return ProgressLines(far, stream.write)


def is_terminal(stream: TextIO) -> bool:
    """Whether what is written there can be written over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class ProgressBar:
    """A bar that is gone when the work is done."""

    def __init__(
        self, far: WorkProgress, stream: TextIO, columns: tuple[ProgressColumn, ...], period: float
    ) -> None:
        self._far = far
        shown: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
        )
        console = Console(file=stream)
        self._progress = Progress(
            *shown, console=console, transient=True, speed_estimate_period=period
        )
        self._task = self._progress.add_task(far.text)

    def start(self) -> None:
        """Draw the bar."""
        self.advance()
        with suppress(LiveError):  # another bar is on the screen
            self._progress.start()

    def advance(self) -> None:
        """Draw it anew where that is due."""
        self._progress.update(self._task, completed=self._far.done, total=self._far.total)

    def stop(self) -> None:
        """Take it away."""
        if self._progress.live.is_started:
            self._progress.stop()


class ProgressLines:
    """A line now and then, written by a thread of its own, so that long waits between two counts
    are not silent.
    """

    def __init__(
        self,
        far: WorkProgress,
        write: Callable[[str], Any],
        clock: Callable[[], float] = time.monotonic,
        amount: Callable[[int], str] = str,
    ) -> None:
        self._far = far
        self._write = write
        self._clock = clock
        self._amount = amount
        self._began = 0.0
        self._due = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to count the time, and write lines from now on."""
        self.begin()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Begin to count the time."""
        self._began = self._clock()
        self._due = self._began + FIRST_SECONDS

    def advance(self) -> None:
        """Nothing: the next line says it."""

    def stop(self) -> None:
        """Write no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def write_if_due(self) -> float:
        """Write a line if it is time; how many seconds until the next."""
        now = self._clock()
        if now >= self._due:
            self._write(self.line(now) + "\n")
            self._due = now + LINE_SECONDS
        return self._due - now

    def line(self, now: float) -> str:
        """How far the work is at this time."""
        far = self._far
        if far.total is None:
            return far.text
        said = f"{far.text}: {self._amount(far.done)} of {self._amount(far.total)}"
        new = far.done - far.initial
        if new <= 0 or far.done >= far.total:
            return said
        left = (now - self._began) / new * (far.total - far.done)
        return f"{said}, {duration(left)} left"

    def _tell(self) -> None:
        """Body of the thread; whoever closes standard error wants no lines."""
        with suppress(OSError, ValueError):
            wait = self.write_if_due()
            while not self._ended.wait(wait):
                wait = self.write_if_due()


def duration(seconds: float) -> str:
    """A time for people: seconds below a minute and a half, then minutes, then hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
