"""Judges untrusted Python: a confined child process runs it, and what it is compared with never
enters that process.

`run_python` runs a program and returns what it printed; `returns_expected` calls an answer's
function and compares outside; `passes_tests` lets tests, which are code themselves, call it from a
second child. On Linux (x86-64, arm64) the kernel restricts a child to a list of system calls, to
Python's own files and an empty folder, without root. What cannot be set up is logged once a
process. docs/guide/security.md says what is promised and what is not covered.
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
from creditdecoding.tasks.sandbox_child.channel import Channel, ClosedError
from creditdecoding.tasks.sandbox_child.remote import RemoteFunction, StoppedError
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
_START_SECONDS = 60.0
"""How long a child may take to start: many times what it needs, so that a busy machine changes no
verdict.
"""
_MESSAGE_LIMIT = 1 << 16
_ENVIRONMENT = {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
"""What some Pythons need to start at all. A child clears it before it runs anything."""
_MEMORY = 512 << 20
_KEPT = {
    "calls": "every system call",
    "files": "every file that this user may open",
    "root": "the id of root",
}
"""What judged code keeps if it cannot be taken away, by the names that `confine` returns."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `ok`: exit status 0 within the limits. `output`: what it printed. `error`:
    the last line of standard error, or which limit it hit.
    """

    ok: bool
    output: str
    error: str


def run_python(code: str, seconds: int = 5, memory: int = _MEMORY, stdin: str = "") -> Outcome:
    """Run `code` in a fresh interpreter with limits in seconds and bytes; it reads `stdin`."""
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        os.fchmod(source.fileno(), 0o444)  # so that nobody can open /dev/stdin, too
        source.write(stdin.encode(errors="replace"))
        source.seek(0)
        with _child("program", seconds, memory, streams=(source, stdout, stderr)) as child:
            child.wait_started(seconds + 1)
            with contextlib.suppress(ClosedError):
                child.channel.send(_encodable(code))
                child.channel.receive(_MESSAGE_LIMIT)  # no message: it closes at the program's end
            if not child.wait_ended():
                return Outcome(False, "", f"stopped after {seconds} s")
        printed, errors = _read(stdout), _read(stderr).strip()
    status = child.process.returncode
    if status == 0:
        return Outcome(True, printed, "")
    if errors:
        return Outcome(False, printed, errors.splitlines()[-1])
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return Outcome(False, printed, f"stopped after {seconds} s")
    return Outcome(False, printed, f"exit {status}")


def same_tree(result: Tree, expected: object) -> bool:
    """Whether the tree that an answer sent is that of the expected value. Nothing is decoded."""
    return bool(result == encode(expected))


def returns_expected(
    code: str,
    function: str,
    cases: Iterable[tuple[Sequence[object], object]],
    same: Callable[[Tree, object], bool] = same_tree,
    seconds: int = 5,
    memory: int = _MEMORY,
) -> bool:
    """Whether the answer's function returns the expected value for the arguments of every case, in
    one process, within the limits.

    `function` may be Class.function: the method of a new object, if there is that class.
    """
    limited = [(arguments, expected, _reply_limit(expected)) for arguments, expected in cases]
    with _child("answer", seconds, memory) as child:
        child.wait_started(seconds + 1)
        remote = RemoteFunction(child.channel, _MESSAGE_LIMIT)
        try:
            remote.start(_encodable(code), function)
            for arguments, expected, limit in limited:
                remote.limit = limit
                if not same(remote.call_for_tree(arguments), expected):
                    return False
        except (Exception, StoppedError):  # anything that the answer raised
            return False
    return True


def _reply_limit(expected: object) -> int:
    """The most bytes of a reply with the expected value; a longer reply holds another value."""
    return _MESSAGE_LIMIT + 8 * len(json.dumps(encode(expected)))


def passes_tests(
    code: str, function: str, tests: str, seconds: int = 5, memory: int = _MEMORY
) -> bool:
    """Whether `tests`, code that defines `check`, accept the answer's function. They run in a child
    of their own and call it from there.
    """
    answer_end, tests_end = _link()
    with (
        _child("answer", seconds, memory, answer_end) as answer,
        _child("tests", seconds, memory, tests_end) as judge,
    ):
        answer.wait_started(seconds + 1)
        judge.wait_started(seconds + 1)
        try:
            judge.channel.send(tests, function, _encodable(code))
            return list(judge.channel.receive(_MESSAGE_LIMIT)) == ["right"]
        except ClosedError:
            return False


class _Child:
    """A process of the sandbox and the channel to it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.process = process
        self.channel = channel

    def wait_started(self, seconds: float) -> None:
        """Wait until it has confined itself, and log what it could not. From then on it has
        `seconds` to answer.
        """
        try:
            _, missing = self.channel.receive(_MESSAGE_LIMIT)
        except ClosedError as error:
            raise CreditError(
                f"the sandbox did not start ({error})",
                hint="Check that this Python runs with -I -S, and that memory is left.",
            ) from error
        if missing:
            _warn(tuple(missing))
        self.channel.deadline = time.monotonic() + seconds

    def wait_ended(self) -> bool:
        """Wait until it has ended. Returns whether it did in time."""
        assert self.channel.deadline is not None
        try:
            self.process.wait(max(0.0, self.channel.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill it and all processes it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Pipes = tuple[int, int]
"""The files from which an end of a channel reads and to which it writes."""


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
    """A child in an empty folder, which inherits its ends of `links`. At the end of the block it is
    killed and the folder removed.
    """
    child_end, our_end = _link()
    ends = (child_end, *links)
    files = [file for pair in ends for file in pair]
    python = [sys.executable, "-I", "-S", "-c", _START]
    command = [*python, role, str(seconds), str(memory), *(f"{a},{b}" for a, b in ends)]
    stdin, stdout, stderr = streams
    channel = Channel(*our_end, deadline=time.monotonic() + _START_SECONDS)
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
            child.kill()


@functools.cache
def _warn(missing: tuple[str, ...]) -> None:
    """Log, once a process, what this system does not take away from judged code."""
    kept = ", ".join(_KEPT[name] for name in missing)
    _log.warning(
        "the sandbox is weaker here: judged code keeps %s; see docs/guide/security.md", kept
    )


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """An empty folder, which is removed afterwards with everything in it."""
    folder = tempfile.mkdtemp()
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: str) -> None:
    """Remove a folder with what an answer made in it: at any depth (without recursion or long
    paths) and with any permissions.
    """
    os.chmod(folder, 0o700)
    current = os.open(folder, os.O_RDONLY)
    subfolders = _remove_files(current)
    parents: list[tuple[str, list[str]]] = []
    while subfolders or parents:
        if subfolders:
            name = subfolders.pop()
            parents.append((name, subfolders))
            os.chmod(name, 0o700, dir_fd=current)
            current = _reopen(current, name)
            subfolders = _remove_files(current)
        else:
            current = _reopen(current, os.pardir)
            name, subfolders = parents.pop()
            os.rmdir(name, dir_fd=current)
    os.close(current)
    os.rmdir(folder)


def _remove_files(folder: int) -> list[str]:
    """Remove everything but folders from an open folder. Returns the names of the folders in it."""
    with os.scandir(folder) as iterator:
        entries = list(iterator)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _reopen(folder: int, name: str) -> int:
    """Open another folder, relative to an open one, which is closed."""
    try:
        return os.open(name, os.O_RDONLY, dir_fd=folder)
    finally:
        os.close(folder)


def _encodable(code: str) -> str:
    """The code without halves of surrogate pairs, which no file could hold."""
    return code.encode(errors="replace").decode()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
