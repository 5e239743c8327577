"""Ctrl-C and SIGTERM: one exception, one message, the usual exit codes, 130 and 143.

The exception is not a `KeyboardInterrupt`: releases of Typer do different things with that one, and
a SIGTERM is none.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the command to end; `words` is what its user is told."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.message = "interrupted"

    @property
    def status(self) -> int:
        """The exit status of a command that ended by this signal."""
        return 128 + self.number


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Both signals raise `Stopped` in the body, but for one that whoever started the command has
    switched off (nohup, `&`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mine = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])


@contextmanager
def default_interrupt() -> Iterator[None]:
    """In the body Ctrl-C is a `KeyboardInterrupt` again: for what has an own way to end, such as a
    server.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def restore_default_signals() -> None:
    """From now on either signal ends the process without a word."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
