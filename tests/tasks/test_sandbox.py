"""The sandbox: what an ordinary program may do, and its limits. docs/guide/security.md has the promises.

Verdicts (who compares what where) are in test_judges.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from creditdecoding.tasks import sandbox
from creditdecoding.tasks.sandbox import Outcome, run_python
from tests.helpers.sandboxed import ORDINARY, SYSTEM_PYTHON, each_python, linux

# what an ordinary program does


def test_output_is_captured() -> None:
    assert run_python("print('one')\nprint('twö 𐍈')") == Outcome(True, "one\ntwö 𐍈\n", "")
    assert run_python("import sys\nprint('out')\nprint('why', file=sys.stderr)") == Outcome(
        True, "out\n", ""
    )
    assert run_python("") == Outcome(True, "", "")


@each_python
def test_ordinary_programs_are_not_disturbed(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "executable", python)
    outcome = run_python(ORDINARY, stdin="one\n")
    assert outcome.output.splitlines() == [
        "thread",
        "[1, 2] slept",
        "alarm",
        "Point(x=1) ['-c'] one b'' one",
        " ['a.db']",
    ], outcome


def test_input_can_be_read_as_programs_of_contests_do() -> None:
    for code in (
        "import os\nprint(len(os.read(0, os.fstat(0).st_size)))",
        "print(len(open(0).read()))",
        "import sys\nprint(len(sys.stdin.read()))",
    ):
        assert run_python(code, stdin="x" * 100_000) == Outcome(True, "100000\n", "")


@pytest.mark.parametrize(
    "modules",
    [
        "asyncio, urllib.request, multiprocessing",
        "math, re, itertools, collections, heapq, functools, typing, datetime, json, decimal",
    ],
)
def test_the_standard_library_can_be_imported(modules: str) -> None:
    assert run_python(f"import {modules}\nprint('imported')") == Outcome(True, "imported\n", "")


NULL_BYTE_ERROR = "SyntaxError" if sys.version_info >= (3, 11, 4) else "ValueError"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("print('before')\n1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("print(1)\x00", f"{NULL_BYTE_ERROR}: source code string cannot contain null bytes"),
        ("raise ValueError('two\\nlines')", "lines"),
        ("raise SystemExit(3)", "exit 3"),
        ("raise SystemExit('why')", "why"),
        ("def f():\n    f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("input()", "EOFError: EOF when reading a line"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
    ],
)
def test_a_failure_says_why(code: str, error: str) -> None:
    outcome = run_python(code)
    assert not outcome.ok and outcome.error == error
    assert outcome.output == ("before\n" if "before" in code else "")


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')",
        "import sys\nsys.stderr.buffer.write(b'\\xff\\xfe')\nsys.exit(1)",
        "print('\\udcff')",
        "print('\ud800')",
    ],
    ids=["bytes", "error bytes", "escaped surrogate", "surrogate in the source"],
)
def test_bytes_that_are_no_text_do_not_break_the_caller(code: str) -> None:
    assert isinstance(run_python(code), Outcome)


# limits


@pytest.mark.slow
def test_time_is_limited() -> None:
    """Of the processor and by the clock, also for one that stops itself."""
    endless = (
        "while True:\n    pass",
        "import time\ntime.sleep(600)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    )
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda code: run_python(code, seconds=1), endless))
    assert [(outcome.ok, outcome.error) for outcome in outcomes] == [
        (False, "stopped after 1 s")
    ] * 3


def test_memory_is_limited() -> None:
    assert run_python("x = bytearray(600 << 20)").error == "MemoryError"
    assert run_python("x = bytearray(64 << 20)\nprint(len(x))").output == f"{64 << 20}\n"
    outcome = run_python("x = []\nwhile True:\n    x.append('a' * 100000)", memory=200 << 20)
    assert not outcome.ok and outcome.error == "MemoryError"


def test_files_are_limited_and_gone_afterwards() -> None:
    outcome = run_python("open('f', 'wb').write(b'x' * (1 << 22))")
    assert not outcome.ok and "File too large" in outcome.error
    outcome = run_python(
        "import os\nopen('f', 'w').write('small')\nprint(os.getcwd())\nprint(os.listdir())"
    )
    folder, listed = outcome.output.splitlines()
    assert outcome.ok and listed == "['f']" and not Path(folder).exists()


def test_whatever_is_in_the_folder_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than Python recurses, folders that nobody may enter, odd names."""
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    code = """
import os
os.mkdir('locked', 0)
open(b'\\xff', 'w')
for _ in range(1010):
    os.mkdir('a')
    os.chdir('a')
open('b', 'w')
print('made')
"""
    assert run_python(code) == Outcome(True, "made\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_flood_of_output_does_not_fill_the_callers_memory() -> None:
    outcome = run_python("import sys\nfor i in range(32):\n    sys.stdout.write('x' * (1 << 20))")
    assert len(outcome.output) <= 1 << 20


@linux
def test_threads_are_limited(confined: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can be nobody or is an ordinary user; the kernel exempts root's own id, where memory
    is the limit.
    """
    if subprocess.run(["unshare", "-U", "true"], capture_output=True).returncode or not os.access(
        SYSTEM_PYTHON, os.X_OK
    ):
        pytest.skip("no user namespaces here, or no Python of the system")
    monkeypatch.setattr(sandbox.sys, "executable", SYSTEM_PYTHON)
    code = """
import threading
threading.stack_size(1 << 16)
wait = threading.Event()
try:
    for count in range(1000):
        threading.Thread(target=wait.wait).start()
except RuntimeError:
    print(count)
wait.set()
"""
    assert 50 < int(run_python(code).output) < 64
