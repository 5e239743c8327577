"""Progress of a command on standard error, and its message if it is stopped.

    with open_progress("samples", resumable=True) as start:
        tick = start(done, total)

`resumable` promises that the same command continues from where this one stopped. If work is saved
only now and then, `saved_count` returns how much of it is.
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
"""Counts one piece of work as done."""


@contextmanager
def open_progress(
    text: str,
    resumable: bool = False,
    saved_count: Callable[[], int] | None = None,
    preparing: str = "",
) -> Iterator[Callable[[int, int], Tick]]:
    """Progress of work whose amount is known later.

    Gives a function that takes the counts done and in all, starts the display and returns a `Tick`.
    Until it is called, `preparing` says what takes so long; "" shows nothing.
    """
    from creditdecoding.viewer.progress import WorkProgress, make_display

    work = WorkProgress(preparing or text)
    display = make_display(work, sys.stderr)

    def tick() -> None:
        work.done += 1
        display.advance()

    def start(done: int, total: int) -> Tick:
        work.text = text
        work.begin(done, total)
        display.start()
        return tick

    try:
        if preparing:
            display.start()
        yield start
    except Stopped as stopped:
        if resumable and work.total is not None:
            stopped.message = _stop_message(work, saved_count)
        raise
    finally:
        display.stop()


def _stop_message(work: WorkProgress, saved_count: Callable[[], int] | None) -> str:
    message = f"stopped at {work.done} of {work.total}; the same command goes on"
    if saved_count is None or saved_count() == work.done:
        return message
    return f"{message} from {saved_count()}"


@contextmanager
def progress(
    total: int,
    text: str,
    done: int = 0,
    resumable: bool = False,
    saved_count: Callable[[], int] | None = None,
) -> Iterator[Tick]:
    """Progress of a known amount of work; gives the function that counts one."""
    with open_progress(text, resumable, saved_count) as start:
        yield start(done, total)


@contextmanager
def answer_progress(
    total: int, text: str = "answers", done: int = 0, resumable: bool = False
) -> Iterator[Callable[[Event], None]]:
    """Progress of decoding; gives a function that takes events and counts finished requests."""
    from creditdecoding.trace import FinishEvent

    with progress(total, text, done, resumable) as tick:

        def on_event(event: Event) -> None:
            if isinstance(event, FinishEvent):
                tick()

        yield on_event
