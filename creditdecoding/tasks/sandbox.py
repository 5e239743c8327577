"""Runs untrusted Python in a child process: time, memory, file and process limits, no network, an empty folder.

Leaves to others: what to run and how to judge what it printed. A guard against accidents and sloppy code of a language
model, not a wall against an attacker.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass

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
def _refuse(*args, **kwargs):
    raise OSError("no network in the sandbox")
socket.socket = socket.create_connection = _refuse
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
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", guard], input=code, capture_output=True, text=True, timeout=seconds + 1, cwd=folder, env={}
            )
        except subprocess.TimeoutExpired:
            return Outcome(False, "", f"stopped after {seconds} s")
    lines = done.stderr.strip().splitlines()
    return Outcome(done.returncode == 0, done.stdout, "" if done.returncode == 0 else (lines[-1] if lines else f"exit {done.returncode}"))
