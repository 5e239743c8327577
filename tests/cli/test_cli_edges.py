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


@pytest.mark.slow
def test_streams_of_a_process(model: str) -> None:
    """The interpreter itself writes to a stream that is full when it ends."""
    line = (
        f"{sys.executable} -m creditdecoding trace hello --model {model} --gen-length 6 > /dev/full"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=environment, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


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


@pytest.mark.parametrize(
    "command", ["generate hello --json", "generate hello --watch", "trace hello"]
)
def test_an_ascii_terminal_gets_all_of_an_answer(
    command: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    arguments = ["credit", *command.split(), "-m", model, "--gen-length", "6"]
    monkeypatch.setattr(sys, "argv", arguments)
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
