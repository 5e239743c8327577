"""Log lines on standard error that never block.

A write to a full pipe waits for the reader; in the event loop it would stop every client. So a
line that cannot be written at once is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import select

STANDARD_ERROR = 2


def write_line(text: str, descriptor: int = STANDARD_ERROR) -> bool:
    """Write a line unless that would block; returns whether it was written. Safe in a signal
    handler.
    """
    rest = f"{text}\n".encode("utf-8", "backslashreplace")
    while rest:
        try:
            _, writable, _ = select.select([], [descriptor], [], 0)
            if not writable:
                return False
            written = os.write(descriptor, rest[: select.PIPE_BUF])  # fits if writable
        except OSError:
            return False
        rest = rest[written:]
    return True


class NonBlockingHandler(logging.Handler):
    """A logging handler that uses `write_line`."""

    def __init__(self, descriptor: int = STANDARD_ERROR) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
        self._descriptor = descriptor
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as dropped."""
        if self._dropped:
            note = f"{self._dropped} log lines were dropped: standard error was not read"
            if write_line(note, self._descriptor):
                self._dropped = 0
        if not write_line(self.format(record), self._descriptor):
            self._dropped += 1
