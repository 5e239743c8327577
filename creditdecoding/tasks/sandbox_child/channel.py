"""Messages over a pair of pipes: a line of JSON each, no longer than the reader allows, no later
than its deadline.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Sequence

TYPE_CHECKING = False  # as typing has it, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

_PIECE = 1 << 16


class ClosedError(Exception):
    """The other side is gone, is late, or wrote what is no message."""


class Channel:
    """One end: reads from one pipe and writes to another, with a deadline by `time.monotonic` (None
    waits for ever).
    """

    def __init__(self, reading: int, writing: int, deadline: float | None = None) -> None:
        self.reading, self.writing, self.deadline = reading, writing, deadline
        self._left = bytearray()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)

    def send(self, *message: object) -> None:
        """Write one message."""
        rest = memoryview(json.dumps(message).encode() + b"\n")
        while rest:
            self._wait([], [self.writing])
            try:
                rest = rest[os.write(self.writing, rest[:_PIECE]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClosedError("the other side is gone") from error

    def receive(self, limit: int) -> Sequence[Any]:
        """Read one message of up to `limit` bytes, a list."""
        end = self._left.find(b"\n")
        while end < 0:
            searched = len(self._left)
            if searched > limit:
                raise ClosedError("too long a message")
            self._wait([self.reading], [])
            self._left += self._read()
            end = self._left.find(b"\n", searched)
        line = bytes(self._left[:end])
        del self._left[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ClosedError("not a message") from error
        if not isinstance(message, list) or not message:
            raise ClosedError("not a message")
        return message

    def _read(self) -> bytes:
        try:
            piece = os.read(self.reading, _PIECE)
        except BlockingIOError:
            return b""
        if not piece:
            raise ClosedError("the other side is gone")
        return piece

    def _wait(self, reading: list[int], writing: list[int]) -> None:
        """Until one of the files is ready, or the deadline."""
        poll = select.poll()
        for file in reading:
            poll.register(file, select.POLLIN)
        for file in writing:
            poll.register(file, select.POLLOUT)
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        if not poll.poll(None if left is None else 1000 * left):
            raise ClosedError("stopped: too late")

    def close(self) -> None:
        """Close both pipes."""
        os.close(self.reading)
        os.close(self.writing)
