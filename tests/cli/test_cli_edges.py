"""Closed, full and ASCII streams, bytes that are not text, outputs that cannot be written: one line
and no traceback.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from creditdecoding.cli import app, main
from tests.helpers.cli import run_credit
from tools.make_checkpoint import make

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random checkpoint."""
    return str(make("llada", tmp_path_factory.mktemp("model") / "tiny"))


def in_shell(command: str, model: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which CREDIT stands for the command line and MODEL for a tiny checkpoint."""
    line = command.replace("CREDIT", f"{sys.executable} -m creditdecoding").replace(
        "MODEL", f"--model {model} --gen-length 6"
    )
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, env=settings, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "environment", "status"),
    [
        ("CREDIT trace hello MODEL", {"PYTHONIOENCODING": "ascii"}, 0),
        ("CREDIT trace hello MODEL > /dev/full", {}, 2),
    ],
)
def test_streams_of_a_process(
    command: str, environment: dict[str, str], status: int, model: str
) -> None:
    done = in_shell(command, model, **environment)
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    if status:
        assert done.stderr.startswith(b"error: ")
        assert done.stderr.count(b"\n") == 1


# Python has no object for a stream that is closed when it starts; None stands for that.
@pytest.mark.parametrize(
    ("arguments", "stream", "path"),
    [
        ("generate hello MODEL", "stdout", None),
        ("generate hello MODEL", "stdout", "/dev/full"),
        ("generate MODEL", "stdin", None),
        ("generate hello --decoder none", "stderr", "/dev/full"),
    ],
)
def test_streams_that_are_closed_or_full(
    arguments: str, stream: str, path: str | None, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, stream, None if path is None else open(path, "w"))  # noqa: SIM115
    line = arguments.replace("MODEL", f"--model {model} --gen-length 6")
    monkeypatch.setattr(sys, "argv", ["credit", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    if stream != "stderr":
        assert errors.getvalue().startswith("error: ")
        assert errors.getvalue().count("\n") == 1


@pytest.mark.parametrize("flag", ["--json", "--watch"])
def test_an_ascii_terminal_gets_all_of_an_answer(
    flag: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    monkeypatch.setattr(
        sys, "argv", ["credit", "generate", "hello", flag, "-m", model, "--gen-length", "6"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    sys.stdout.flush()
    assert ended.value.code == 0
    assert output.getvalue().isascii() and output.getvalue().endswith(b"\n")


def test_bytes_that_are_not_text_are_refused(model: str) -> None:
    as_argument = run_credit(["generate", "a\udcff", "-m", model])
    stdin = io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8")
    on_stdin = run_credit(["generate", "-m", model], stdin)
    for result in (as_argument, on_stdin):
        assert result.status == 2
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", ["--png", "--html", "--save"])
def test_a_trace_looks_at_its_outputs_first(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_lm(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(app, "load_lm", load_lm)
    monkeypatch.setattr("creditdecoding.cli.trace.load_lm", load_lm)
    result = run_credit(["trace", "hello", flag, "/nowhere/out.png"])
    assert result.status == 2
    assert "/nowhere/out.png" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_is_no_prompt_file(tmp_path: Path) -> None:
    result = run_credit(["generate", "--file", tmp_path])
    assert result.status == 2
    assert str(tmp_path) in result.stderr
    assert result.stderr.count("\n") == 1
