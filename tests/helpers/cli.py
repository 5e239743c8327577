"""Run the `credit` command line inside this process: no new interpreter, no second import of torch."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

import typer

from creditdecoding.cli import main
from creditdecoding.cli.app import app


@dataclass(frozen=True)
class Result:
    """What a command left behind: exit status and the text of both streams."""

    status: int
    stdout: str
    stderr: str


def run_experiment(name: str, arguments: Sequence[str]) -> Result:
    """Run `python -m experiments.<name>` with these arguments, in this process."""
    return run_credit(arguments, commands=import_module(f"experiments.{name}.__main__").command)


def run_credit(
    arguments: Sequence[str | Path], stdin: str | TextIO = "", commands: typer.Typer = app
) -> Result:
    """Run `credit` with these arguments and return its exit status and output. Nothing is raised."""
    stdout = io.StringIO()
    stderr = io.StringIO()
    argv = ["credit", *(str(argument) for argument in arguments)]
    status = 0
    with (
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        patch.object(sys, "argv", argv),
        patch.object(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin),
    ):
        try:
            main(commands)
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    return Result(status, stdout.getvalue(), stderr.getvalue())
