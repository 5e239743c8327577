"""What a child process of the sandbox does: confine itself, report which parts of that failed, then
run a program, an answer or tests.

Started as `python -I -S -c START ROLE SECONDS MEMORY FILE...` in an empty folder.
"""

from __future__ import annotations

import os
import sys

from . import answer
from .channel import Channel
from .confine import confine
from .remote import RemoteFunction

_UNLIMITED = 1 << 40
_REPLY_LIMIT = 64 << 20


def main() -> None:
    """Do what the command line says."""
    role, seconds, memory, *files = sys.argv[1:]
    del sys.argv[1:]
    os.environ.clear()
    parent, *others = (_channel(pair) for pair in files)
    parent.send("confined", confine(int(seconds), int(memory)))
    if role == "program":
        _run_program(parent)
    elif role == "answer":
        answer.serve(*(others or [parent]))
    else:
        _run_tests(parent, others[0])


def _channel(pair: str) -> Channel:
    """The channel over the two files of `READ,WRITE`."""
    read_file, write_file = pair.split(",")
    return Channel(int(read_file), int(write_file))


def _run_program(parent: Channel) -> None:
    """A whole program, which reads standard input and prints. The channel closes when it ends."""
    (source,) = parent.receive(_UNLIMITED)
    answer.run(source, "__main__")


def _run_tests(parent: Channel, answer_channel: Channel) -> None:
    """Code that defines `check`, which is called with the answer's function and raises an error if
    the function is wrong.
    """
    tests, name, source = parent.receive(_UNLIMITED)
    function = RemoteFunction(answer_channel, _REPLY_LIMIT)
    function.start(source, name)
    names = answer.run(tests, "tests", {name: function.call})
    names["check"](function.call)
    if not function.stopped:
        parent.send("right")
