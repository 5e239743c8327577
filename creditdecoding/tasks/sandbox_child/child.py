"""What a child process of the sandbox does: confine itself, report what of that failed, then run a
program, an answer or tests.

Started by sandbox.py as `python -I -S -c START ROLE SECONDS MEMORY FILE...`, in an empty folder.
"""

from __future__ import annotations

import os
import sys

from . import answering, asking
from .channel import Channel
from .confine import confine

_UNLIMITED = 1 << 40
_REPLY = 64 << 20


def main() -> None:
    """Run what the command line says."""
    role, seconds, memory, *files = sys.argv[1:]
    del sys.argv[1:]
    os.environ.clear()
    home, *others = (Channel(int(pair.split(",")[0]), int(pair.split(",")[1])) for pair in files)
    home.send("confined", confine(int(seconds), int(memory)))
    if role == "program":
        _program(home)
    elif role == "answer":
        answering.serve(*(others or [home]))
    else:
        _tests(home, others[0])


def _program(home: Channel) -> None:
    """A whole program, which reads standard input and prints. The channel tells when it ends."""
    (source,) = home.receive(_UNLIMITED)
    answering.run(source, "__main__")


def _tests(home: Channel, answer: Channel) -> None:
    """Code that defines `check`, which is called with the answer's function and raises where that
    is wrong.
    """
    source, name, answered = home.receive(_UNLIMITED)
    there = asking.Asking(answer, _REPLY)
    there.start(answered, name)
    names = answering.run(source, "tests", {name: there.call})
    names["check"](there.call)
    if not there.stopped:
        home.send("right")
