"""Run the `credit` command line inside this process: no new interpreter, no second import of torch."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from creditdecoding.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left behind: exit status and the text of both streams."""

    status: int
    stdout: str
    stderr: str


def run_credit(arguments: Sequence[str | Path], stdin: str = "") -> Result:
    """Run `credit` with these arguments and return its exit status and output. Nothing is raised."""
    stdout = io.StringIO()
    stderr = io.StringIO()
    argv = ["credit", *(str(argument) for argument in arguments)]
    status = 0
    with redirect_stdout(stdout), redirect_stderr(stderr), patch.object(sys, "argv", argv), patch.object(sys, "stdin", io.StringIO(stdin)):
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    return Result(status, stdout.getvalue(), stderr.getvalue())
