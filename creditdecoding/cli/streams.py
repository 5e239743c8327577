"""The three standard streams, made safe before a command runs: closed ones, and characters that
they cannot hold.

Standard output that is closed is refused. What standard output cannot encode is written as a
question mark; bytes of standard input that
are no text come through as half characters, which a prompt refuses by name.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

from creditdecoding.errors import OptionError


def prepare_streams() -> None:
    """Make the streams of this process safe to use. Raises `OptionError` where standard output is
    closed.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - it stays open as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise OptionError("standard output is closed", hint="Send it to a file, or to /dev/null.")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def encodes_all_text(stream: TextIO) -> bool:
    """Whether every character can be written to this stream; one without an encoding holds text as
    it is.
    """
    encoding = stream.encoding
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")
