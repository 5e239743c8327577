"""Messages over a pair of pipes: one line of JSON each, with a limit on length and a deadline."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Sequence

TYPE_CHECKING = False  # typing's own takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 1 << 16


class ClosedError(Exception):
    """The other side is gone, is late, or wrote something that is not a message."""


class Channel:
    """One end of a channel: reads from one pipe and writes to another.

    `deadline` is a time of `time.monotonic`; None waits forever.
    """

    def __init__(self, read_file: int, write_file: int, deadline: float | None = None) -> None:
        self.read_file = read_file
        self.write_file = write_file
        self.deadline = deadline
        self._buffer = bytearray()
        os.set_blocking(read_file, False)
        os.set_blocking(write_file, False)

    def send(self, *message: object) -> None:
        """Write one message."""
        rest = memoryview(json.dumps(message).encode() + b"\n")
        while rest:
            self._wait(self.write_file, select.POLLOUT)
            try:
                rest = rest[os.write(self.write_file, rest[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClosedError("the other side is gone") from error

    def receive(self, limit: int) -> Sequence[Any]:
        """Read one message of up to `limit` bytes, a list."""
        end = self._buffer.find(b"\n")
        while end < 0:
            searched = len(self._buffer)
            if searched > limit:
                raise ClosedError("too long a message")
            self._wait(self.read_file, select.POLLIN)
            self._buffer += self._read()
            end = self._buffer.find(b"\n", searched)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ClosedError("not a message") from error
        if not isinstance(message, list) or not message:
            raise ClosedError("not a message")
        return message

    def _read(self) -> bytes:
        try:
            chunk = os.read(self.read_file, _CHUNK)
        except BlockingIOError:
            return b""
        if not chunk:
            raise ClosedError("the other side is gone")
        return chunk

    def _wait(self, file: int, event: int) -> None:
        """Wait until the file is ready, or the deadline has passed."""
        poll = select.poll()
        poll.register(file, event)
        timeout = None
        if self.deadline is not None:
            timeout = 1000 * max(0.0, self.deadline - time.monotonic())
        if not poll.poll(timeout):
            raise ClosedError("stopped: too late")

    def close(self) -> None:
        """Close both pipes."""
        os.close(self.read_file)
        os.close(self.write_file)
