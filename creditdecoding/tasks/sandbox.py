"""Judges untrusted Python: a child process runs it, confined, and what it is compared with never
enters that process.

`run_python` runs a program and gives what it printed; `gives` calls an answer's function and
compares outside; `passes` lets tests that are code themselves call it from a second child. On Linux
(x86-64, arm64) the kernel holds a child to a list of system calls, to Python's own files and an
empty folder, without root. What cannot be set up is said once a process. docs/security.md has the
promises and what is not covered.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from creditdecoding.errors import CreditError
from creditdecoding.tasks.sandbox_child.asking import Asking, StoppedError
from creditdecoding.tasks.sandbox_child.channel import Channel, ClosedError
from creditdecoding.tasks.sandbox_child.values import encode

if TYPE_CHECKING:
    from creditdecoding.tasks.sandbox_child.values import Tree

_START = "; ".join(
    (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})",
        "from sandbox_child.child import main",
        "del sys.path[0]",
        "main()",
    )
)
_PATIENCE = 60.0
"""Seconds that a child may take to start: many times what it needs, so that a busy machine changes
no verdict.
"""
_MESSAGE = 1 << 16
_ENVIRONMENT = {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
"""What some Pythons need to start at all; a child forgets it before it runs anything."""

_MEMORY = 512 << 20

_KEEPS = {
    "calls": "every system call",
    "files": "every file that this user may open",
    "root": "the id of root",
}
"""What the code that is judged keeps where the system does not take it away
(sandbox_child/confine.py).
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run ended with: `ok` is exit status 0 within the limits; `output` is what it printed;
    `error` the last line of why not.
    """

    ok: bool
    output: str
    error: str


def run_python(code: str, seconds: int = 5, memory: int = _MEMORY, given: str = "") -> Outcome:
    """Run `code` in a fresh interpreter under limits (seconds of time, bytes of memory); it reads
    `given` from standard input.
    """
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        os.fchmod(source.fileno(), 0o444)  # so that nobody can open /dev/stdin, too
        source.write(given.encode(errors="replace"))
        source.seek(0)
        with _child("program", seconds, memory, streams=(source, output, errors)) as child:
            child.started(seconds + 1)
            with contextlib.suppress(ClosedError):
                child.channel.send(_text_only(code))
                child.channel.receive(_MESSAGE)  # nothing comes: it closes when the program ends
            if not child.ended():
                return Outcome(False, "", f"stopped after {seconds} s")
        printed = _text(output)
        said = _text(errors)
    status = child.process.returncode
    if status == 0:
        return Outcome(True, printed, "")
    if said.strip():
        return Outcome(False, printed, said.strip().splitlines()[-1])
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return Outcome(False, printed, f"stopped after {seconds} s")
    return Outcome(False, printed, f"exit {status}")


def equal(given: Tree, wanted: object) -> bool:
    """Whether a value that an answer gave is the wanted one; it comes as the tree of
    sandbox_child/values.py, and stays one.
    """
    return bool(given == encode(wanted))


def gives(
    code: str,
    function: str,
    cases: Iterable[tuple[Sequence[object], object]],
    same: Callable[[Tree, object], bool] = equal,
    seconds: int = 5,
    memory: int = _MEMORY,
) -> bool:
    """Whether the answer's function gives the wanted value for the arguments of every case, in one
    process, within the limits.

    `function` may be Class.function: the method of a new object, if there is that class.
    """
    limited = [(arguments, wanted, _limit(wanted)) for arguments, wanted in cases]
    with _child("answer", seconds, memory) as child:
        child.started(seconds + 1)
        asking = Asking(child.channel, _MESSAGE)
        try:
            asking.start(_text_only(code), function)
            for arguments, wanted, limit in limited:
                asking.limit = limit
                if not same(asking.tree(arguments), wanted):
                    return False
        except (Exception, StoppedError):  # whatever the answer raised
            return False
    return True


def _limit(wanted: object) -> int:
    """The most bytes that a reply with the wanted value can have; what is longer is another."""
    return _MESSAGE + 8 * len(json.dumps(encode(wanted)))


def passes(code: str, function: str, tests: str, seconds: int = 5, memory: int = _MEMORY) -> bool:
    """Whether `tests`, code that defines `check`, accept the answer's function. They run in a child
    of their own and call it from there.
    """
    end, other = _link()
    with (
        _child("answer", seconds, memory, end) as answer,
        _child("tests", seconds, memory, other) as judge,
    ):
        answer.started(seconds + 1)
        judge.started(seconds + 1)
        try:
            judge.channel.send(tests, function, _text_only(code))
            return list(judge.channel.receive(_MESSAGE)) == ["right"]
        except ClosedError:
            return False


class _Child:
    """A process of the sandbox and the channel to it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.process = process
        self.channel = channel

    def started(self, seconds: float) -> None:
        """Wait until it has confined itself, and say what it could not; from then on it has
        `seconds` to answer.
        """
        try:
            _, missing = self.channel.receive(_MESSAGE)
        except ClosedError as error:
            raise CreditError(
                f"the sandbox did not start ({error})",
                hint="See whether this Python runs with -I -S, and whether memory is left.",
            ) from error
        if missing:
            _say(tuple(missing))
        self.channel.deadline = time.monotonic() + seconds

    def ended(self) -> bool:
        """Wait until it has ended; whether it does in time."""
        assert self.channel.deadline is not None
        try:
            self.process.wait(max(0.0, self.channel.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """End it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Pipes = tuple[int, int]
"""What an end of a channel reads from, and what it writes to."""


def _link() -> tuple[Pipes, Pipes]:
    """Both ends of a channel."""
    first_reads, second_writes = os.pipe()
    second_reads, first_writes = os.pipe()
    return (first_reads, first_writes), (second_reads, second_writes)


@contextlib.contextmanager
def _child(
    role: str,
    seconds: int,
    memory: int,
    *links: Pipes,
    streams: Sequence[IO[bytes] | int] = (subprocess.DEVNULL,) * 3,
) -> Iterator[_Child]:
    """A child in an empty folder, which takes over its ends of `links`. Both end here."""
    theirs, ours = _link()
    ends = (theirs, *links)
    files = [file for pair in ends for file in pair]
    python = [sys.executable, "-I", "-S", "-c", _START]
    command = [*python, role, str(seconds), str(memory), *(f"{a},{b}" for a, b in ends)]
    stdin, stdout, stderr = streams
    channel = Channel(*ours, deadline=time.monotonic() + _PATIENCE)
    with contextlib.closing(channel), _folder() as folder:
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                pass_fds=files,
                start_new_session=True,
            )
        finally:
            for file in files:
                os.close(file)
        child = _Child(process, channel)
        try:
            yield child
        finally:
            child.end()


@functools.cache
def _say(missing: tuple[str, ...]) -> None:
    """Once a process: what this system does not keep from the code that is judged."""
    kept = ", ".join(_KEEPS[what] for what in missing)
    what = "the sandbox is weaker here: code that is judged keeps %s; see docs/security.md"
    _log.warning(what, kept)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """An empty folder, gone afterwards with all that is in it."""
    folder = tempfile.mkdtemp()
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: str) -> None:
    """Remove a folder with what an answer made in it, however deep (without recursion, without long
    paths) and locked that is.
    """
    os.chmod(folder, 0o700)
    here = os.open(folder, os.O_RDONLY)
    inner = _emptied(here)
    above: list[tuple[str, list[str]]] = []
    while inner or above:
        if inner:
            name = inner.pop()
            above.append((name, inner))
            os.chmod(name, 0o700, dir_fd=here)
            here = _moved(here, name)
            inner = _emptied(here)
        else:
            here = _moved(here, os.pardir)
            name, inner = above.pop()
            os.rmdir(name, dir_fd=here)
    os.close(here)
    os.rmdir(folder)


def _emptied(folder: int) -> list[str]:
    """The folders in an open folder, when all else in it is removed."""
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _moved(folder: int, name: str) -> int:
    """Another folder opened in place of an open one."""
    try:
        return os.open(name, os.O_RDONLY, dir_fd=folder)
    finally:
        os.close(folder)


def _text_only(code: str) -> str:
    """Without what no file could hold: halves of surrogate pairs."""
    return code.encode(errors="replace").decode()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
