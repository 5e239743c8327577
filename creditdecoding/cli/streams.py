"""Makes the standard streams safe to use: closed ones, and characters that they cannot hold.

A closed standard output is refused. Characters that standard output cannot encode are written as
question marks. Bytes on standard input that are not text become lone surrogates, which a prompt
refuses.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

from creditdecoding.errors import OptionError


def prepare_streams() -> None:
    """Prepare the streams of this process. Raises `OptionError` if standard output is closed."""
    # these stay open until the process ends
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise OptionError("standard output is closed", hint="Send it to a file, or to /dev/null.")
    errors = {sys.stdin: "surrogateescape", sys.stdout: "replace", sys.stderr: "backslashreplace"}
    for stream, error_handler in errors.items():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=error_handler)


def encodes_all_text(stream: TextIO) -> bool:
    """Whether every character can be written to this stream, as to one without an encoding."""
    encoding = stream.encoding
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")
