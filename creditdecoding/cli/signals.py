"""Ctrl-C and SIGTERM: one exception, one message, and the usual exit statuses 130 and 143.

The exception is not a `KeyboardInterrupt`, which releases of Typer handle in different ways.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the command to end; `message` is shown to the user."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.message = "interrupted"

    @property
    def status(self) -> int:
        """The exit status of a command that ended by this signal."""
        return 128 + self.number


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Both signals raise `Stopped` in the body, except those that are ignored (nohup, `&`)."""
    numbers = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    with _handled(numbers, _raise_stopped):
        yield


@contextmanager
def default_interrupt() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt` in the body, for a server that shuts down by itself."""
    with _handled([signal.SIGINT], signal.default_int_handler):
        yield


@contextmanager
def _handled(numbers: Iterable[signal.Signals], handler: Callable[..., Any]) -> Iterator[None]:
    """Set a handler in the body; only the main thread may, others change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def restore_default_signals() -> None:
    """From now on either signal ends the process without a message."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
