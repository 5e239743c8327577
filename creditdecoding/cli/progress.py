"""How far a command is, on standard error, and what it says when it is stopped on the way.

    with open_progress("samples", resumable=True) as start:
        tick = start(done, total)

`resumable` says that the same command goes on where this one stopped. Where work is kept only now and
then, `saved_count` says how much of it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from creditdecoding.cli.signals import Stopped

if TYPE_CHECKING:
    from creditdecoding.trace import Event
    from creditdecoding.viewer.progress import WorkProgress

Tick = Callable[[], None]
Saved = Callable[[], int]


@contextmanager
def open_progress(
    text: str, resumable: bool = False, saved_count: Saved | None = None
) -> Iterator[Callable[[int, int], Tick]]:
    """Progress of what is counted later: call it with how many are done and how many there are, it
    gives what counts one.
    """
    from creditdecoding.viewer.progress import WorkProgress, make_display

    far = WorkProgress(text)
    shown = make_display(far, sys.stderr)

    def tick() -> None:
        far.done += 1
        shown.advance()

    def start(done: int, total: int) -> Tick:
        far.begin(done, total)
        shown.start()
        return tick

    try:
        yield start
    except Stopped as stopped:
        if resumable and far.total is not None:
            stopped.message = _words(far, saved_count)
        raise
    finally:
        shown.stop()


def _words(far: WorkProgress, saved: Saved | None) -> str:
    """What is said of work that goes on."""
    said = f"stopped at {far.done} of {far.total}; the same command goes on"
    if saved is None or saved() == far.done:
        return said
    return f"{said} from {saved()}"


@contextmanager
def progress(
    total: int, text: str, done: int = 0, resumable: bool = False, saved_count: Saved | None = None
) -> Iterator[Tick]:
    """Progress that counts calls."""
    with open_progress(text, resumable, saved_count) as start:
        yield start(done, total)


@contextmanager
def answer_progress(
    total: int, text: str = "answers", done: int = 0, resumable: bool = False
) -> Iterator[Callable[[Event], None]]:
    """Progress that is shown trace events and counts the rows that end."""
    from creditdecoding.trace import FinishEvent

    with progress(total, text, done, resumable) as tick:
        yield lambda event: tick() if isinstance(event, FinishEvent) else None
