"""Runs untrusted Python in a child process: time, memory, file and process limits, no network, an empty folder.

Leaves to others: what to run and how to judge what it printed. A guard against accidents and sloppy code of a language
model, not a wall against an attacker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO

_GUARD = """
import resource, socket, sys
def _limit(kind, value):
    try:
        resource.setrlimit(kind, (value, value))
    except (ValueError, OSError):
        pass
_limit(resource.RLIMIT_AS, {memory})
_limit(resource.RLIMIT_CPU, {seconds})
_limit(resource.RLIMIT_FSIZE, 1 << 20)
_limit(resource.RLIMIT_NPROC, 0)
class _Refused(socket.socket):
    def __init__(self, *args, **kwargs):
        raise OSError("no network in the sandbox")
socket.socket = _Refused
exec(compile(sys.stdin.read(), "<answer>", "exec"), {{"__name__": "__main__"}})
"""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with: `ok` is exit status 0 within the limits; `output` is what it printed; `error` the last line of why not."""

    ok: bool
    output: str
    error: str


def run_python(code: str, seconds: int = 5, memory: int = 512 << 20) -> Outcome:
    """Run `code` in a fresh interpreter under limits (seconds of time, bytes of memory)."""
    guard = _GUARD.format(memory=memory, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-I", "-S", "-c", guard]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors, cwd=folder, env={}, start_new_session=True)
        try:
            child.communicate(code.encode(errors="replace"), timeout=seconds + 1)
        except subprocess.TimeoutExpired:
            return Outcome(False, "", f"stopped after {seconds} s")
        finally:
            _end(child)
        printed, said = _text(output), _text(errors)
    if child.returncode == 0:
        return Outcome(True, printed, "")
    stopped = f"stopped after {seconds} s" if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL) else f"exit {child.returncode}"
    return Outcome(False, printed, next(reversed(said.strip().splitlines()), stopped))


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
