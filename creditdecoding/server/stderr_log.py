"""Lines on standard error that never make the server wait.

A pipe that nobody reads fills up, and whoever writes to it then stands still: here that would be
the event loop, and with it every client.
So a line that cannot be written at once is lost, and counted.
"""

from __future__ import annotations

import logging
import os
import select

STANDARD_ERROR = 2


def write_line(text: str, descriptor: int = STANDARD_ERROR) -> bool:
    """Write a line, unless that would wait for its reader; whether it was written. A signal's
    handler may call it.
    """
    rest = f"{text}\n".encode("utf-8", "backslashreplace")
    while rest:
        try:
            _, writable, _ = select.select([], [descriptor], [], 0)
            if not writable:
                return False
            count = os.write(
                descriptor, rest[: select.PIPE_BUF]
            )  # so much fits into a pipe that is writable
        except OSError:
            return False
        rest = rest[count:]
    return True


class NonBlockingHandler(logging.Handler):
    """A handler that writes records so."""

    def __init__(self, descriptor: int = STANDARD_ERROR) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
        self._descriptor = descriptor
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as lost."""
        if self._lost and write_line(
            f"{self._lost} lines were lost: nobody read them", self._descriptor
        ):
            self._lost = 0
        if not write_line(self.format(record), self._descriptor):
            self._lost += 1
