"""Whether two formulas are the same mathematics, decided in a child process under a time limit.

The limit holds in every thread, and for formulas that no signal handler can interrupt.
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from creditdecoding.errors import CreditError, MissingExtraError

SECONDS = 10
"""Seconds of computing that one comparison may take."""

_CHILD = Path(__file__).with_name("formula_child.py")


def check_installed() -> None:
    """Raise `MissingExtraError` without math-verify."""
    if find_spec("math_verify") is None:
        raise MissingExtraError("math-verify", "eval")


class FormulaJudge:
    """Compares formulas in a process that starts with the first one and stays for the others.

    A process that computes for longer than `seconds` is replaced, and the formulas count as
    different.
    """

    def __init__(self, seconds: int = SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def equal(self, expected: str, answer: str) -> bool:
        """Raises `CreditError` if the process does not start."""
        line = json.dumps([self.seconds, expected, answer])
        with self._lock:
            if self._process is None:
                self._process = _start()
            reply = _exchange(self._process, line)
            if reply:
                return bool(json.loads(reply))
            status = self._end()
        if status == -signal.SIGPROF:
            return False
        raise CreditError(
            f"the comparison of formulas ended with status {status}",
            hint="Check that math-verify can be imported, and that memory is left.",
        )

    def _end(self) -> int:
        """Wait for a process that closed its output; its status."""
        assert self._process is not None
        with self._process as process:
            self._process = None
        return process.returncode


def _start() -> subprocess.Popen[str]:
    code = f"import runpy, sys; sys.path[:] = {sys.path!r}; "
    code += f"runpy.run_path({str(_CHILD)!r}, run_name='__main__')"
    streams: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, text=True, start_new_session=True, **streams)


def _exchange(process: subprocess.Popen[str], line: str) -> str:
    """Send a line and read the reply; empty if the process has ended."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except BrokenPipeError:
        return ""
    return process.stdout.readline()


@functools.cache
def formula_judge() -> FormulaJudge:
    """The judge of this process."""
    return FormulaJudge()
