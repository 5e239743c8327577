"""The sandbox: what a child may do, what the kernel refuses it, what is said where it cannot;
docs/security.md has the promises.

Verdicts (who compares what where) are in test_judges.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import unpack

import pytest

from creditdecoding.errors import CreditError
from creditdecoding.tasks import sandbox
from creditdecoding.tasks.sandbox import Outcome, passes_tests, returns_expected, run_python
from creditdecoding.tasks.sandbox_child import seccomp, syscalls

linux = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel refuses is Linux's")
_SYSTEM = "/usr/bin/python3"
each_python = pytest.mark.parametrize(
    "python",
    [
        sys.executable,
        pytest.param(
            _SYSTEM,
            marks=pytest.mark.skipif(
                sys.platform != "linux" or not os.access(_SYSTEM, os.X_OK),
                reason="no such Python here",
            ),
        ),
    ],
)
"""This Python, which may lie in root's home, and the system's, which everybody can read."""
DEADLINE = 60
"""Seconds after which a condition that never comes true fails a test."""


@pytest.fixture(scope="module")
def confined() -> None:
    """Skips where this kernel has no seccomp or no Landlock (5.13 of 2021)."""
    with sandbox._child("answer", 5, 1 << 29) as child:
        _, missing = child.channel.receive(1 << 16)
    if missing:
        pytest.skip(f"this system does not confine {missing}")


# what an ordinary program does


def test_output_is_captured() -> None:
    assert run_python("print('one')\nprint('twö 𐍈')") == Outcome(True, "one\ntwö 𐍈\n", "")
    assert run_python("import sys\nprint('out')\nprint('why', file=sys.stderr)") == Outcome(
        True, "out\n", ""
    )
    assert run_python("") == Outcome(True, "", "")


ORDINARY = """
import asyncio, ctypes, decimal, hashlib, json, os, random, shutil, signal, sqlite3, sys, tempfile, threading, time, zoneinfo
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(list(ThreadPoolExecutor(8).map(abs, [-1, 2])), asyncio.run(asyncio.sleep(0, "slept")))
with tempfile.TemporaryFile() as file:
    file.write(b"x")
with tempfile.TemporaryDirectory() as folder:
    open(os.path.join(folder, "one"), "w").write("1")
    os.rename(os.path.join(folder, "one"), "two")
os.mkdir("sub"); os.rename("two", "sub/two"); shutil.rmtree("sub")
signal.signal(signal.SIGALRM, lambda *_: print("alarm")); signal.raise_signal(signal.SIGALRM)
@dataclass
class Point:
    x: int = 1
random.seed(); time.sleep(0); hashlib.sha256(os.urandom(8)); sqlite3.connect("a.db").execute("select 1")
print(Point(), sys.argv, input(), os.read(0, 100), open("/dev/stdin").read(), os.listdir("."))
open("/dev/null", "w").write("gone")
"""


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


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("print('before')\n1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("print(1)\x00", "SyntaxError: source code string cannot contain null bytes"),
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
        _SYSTEM, os.X_OK
    ):
        pytest.skip("no user namespaces here, or no Python of the system")
    monkeypatch.setattr(sandbox.sys, "executable", _SYSTEM)
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


# what is refused


def test_it_does_not_see_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    outcome = run_python(
        "import os, sys\nprint(dict(os.environ), os.getenv('SOME_TOKEN'), os.listdir(), __name__, sys.flags.isolated)"
    )
    assert outcome.output == "{} None [] __main__ 1\n"


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "from socket import socket, AF_INET\nsocket(AF_INET)",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')",
    ],
)
def test_there_is_no_network(code: str) -> None:
    outcome = run_python(code)
    assert not outcome.ok and "no network in the sandbox" in outcome.error


REFUSED = {
    "fork": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "a subprocess": "import subprocess; subprocess.run(['true'])",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "multiprocessing": "import multiprocessing; multiprocessing.Process(target=print).start()",
    "limits of the parent": "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "raising its limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "a signal to the parent": "os.kill(os.getppid(), 0)",
    "a signal to its group": "os.killpg(0, 0)",
    "a signal to all": "os.kill(-1, 0)",
    "a signal by way of a file": "import fcntl; fcntl.fcntl(0, 8, os.getppid())",
    "leaving its group": "os.setsid()",
    "root": "os.setuid(0)",
    "root's group": "os.setgid(0)",
    "another root folder": "os.chroot('.')",
    "its priority": "os.nice(1)",
    "the parent's priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 5)",
    "scheduling of the parent": "os.sched_setaffinity(os.getppid(), {0})",
    "the parent's environment": "open(f'/proc/{os.getppid()}/environ').read()",
    "the environment of process 1": "open('/proc/1/environ').read()",
    "its own": "open('/proc/self/environ').read()",
    "processes": "os.listdir('/proc')",
    "files of the system": "open('/etc/passwd').read()",
    "other folders": "os.listdir('/')",
    "our files": "open({kept!r}).read()",
    "writing beside its folder": "open({outside!r}, 'w')",
    "removing": "os.remove({kept!r})",
    "renaming": "os.rename({kept!r}, 'here')",
    "truncating": "os.truncate({kept!r}, 0)",
    "truncating while reading": "os.open({kept!r}, os.O_RDONLY | os.O_TRUNC)",
    "modes": "os.chmod({kept!r}, 0)",
    "times": "os.utime({kept!r}, (0, 0))",
    "owners": "os.chown({kept!r}, 1, 1)",
    "hard links": "os.link({kept!r}, 'link')",
    "devices": "os.mknod('device')",
    "a symbolic link out": "os.symlink({kept!r}, 'link')",
    "shared memory by name": "from multiprocessing.shared_memory import SharedMemory; SharedMemory(create=True, size=9)",
    "a semaphore by name": "import multiprocessing; multiprocessing.Lock()",
    "memory without a file": "os.memfd_create('x')",
    "the host's name": "import socket; socket.sethostname('x')",
    "a raw socket": "import _socket; _socket.socket.__base__(2, 1, 0)",
    "a pair of another kind": "import socket; socket.socketpair(socket.AF_INET)",
    "an address over a pair": "import socket; a, b = socket.socketpair(type=socket.SOCK_DGRAM); a.sendto(b'x', {outside!r})",
}
BY_NUMBER = """
ptrace process_vm_readv process_vm_writev pidfd_open pidfd_send_signal pidfd_getfd shmget shmat shmctl msgget
semget mq_open keyctl add_key request_key io_uring_setup io_uring_enter userfaultfd perf_event_open bpf mount
umount2 pivot_root unshare setns sethostname setdomainname memfd_create memfd_secret personality tkill
rt_sigqueueinfo rt_tgsigqueueinfo kcmp capset setresuid setreuid setfsuid setgroups prctl seccomp
landlock_create_ruleset name_to_handle_at open_by_handle_at fanotify_init inotify_init1 timer_create acct
swapon quotactl syslog sched_setscheduler setxattr fsopen open_tree move_mount mount_setattr process_madvise
migrate_pages move_pages vhangup fork vfork execve execveat socket connect bind listen accept4 sendmsg sendmmsg
splice vmsplice ioperm iopl modify_ldt
"""


def attempts(kept: Path, outside: Path) -> str:
    """A program that tries everything that is refused and prints, as JSON, how each attempt ended."""
    tried = {
        name: code.replace("{kept!r}", repr(str(kept))).replace("{outside!r}", repr(str(outside)))
        for name, code in REFUSED.items()
    }
    numbers = {name: number for name in BY_NUMBER.split() if (number := _number(name)) is not None}
    return f"""
import ctypes, json, os
ended = {{}}
for name, code in {tried!r}.items():
    try:
        exec(code)
        ended[name] = "allowed"
    except OSError as error:
        ended[name] = type(error).__name__
    except ValueError as error:
        ended[name] = str(error)
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {numbers!r}.items():
    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    ended[name] = "PermissionError" if (result, ctypes.get_errno()) == (-1, 1) else f"{{result}}, errno {{ctypes.get_errno()}}"
print(json.dumps(ended))
"""


def _number(name: str, machine: str = "") -> int | None:
    """A call's number by libseccomp, which knows those of every machine; None where it does not
    know or is not here.
    """
    library = ctypes.util.find_library("seccomp")
    if library is None:
        return None
    architectures = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
    architecture = architectures.get(machine or os.uname().machine, 0)
    number = int(
        ctypes.CDLL(library).seccomp_syscall_resolve_name_arch(architecture, name.encode())
    )
    return number if number >= 0 else None


def _check(outcome: Outcome, kept: Path) -> None:
    ended = json.loads(outcome.output)
    allowed = {name: how for name, how in ended.items() if how != "PermissionError"}
    allowed.pop("raising its limits", None)  # a ValueError of Python's
    assert ended["raising its limits"] in ("PermissionError", "not allowed to raise maximum limit")
    assert not allowed
    assert kept.read_text() == "words" and len(list(kept.parent.iterdir())) == 1


@linux
def test_the_kernel_refuses(confined: None, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("words")
    kept.chmod(0o666)
    _check(run_python(attempts(kept, tmp_path / "new")), kept)


@linux
def test_the_kernel_refuses_an_ordinary_user_too(confined: None, tmp_path: Path) -> None:
    """Where the tests run as root: again as a user without any capability, who owns the files as
    before.
    """
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["unshare", "-U", "--map-user=1000", "true"], capture_output=True
        ).returncode
    ):
        pytest.skip("not root, or no unshare")
    kept = tmp_path / "kept"
    kept.write_text("words")
    code = f"""
from creditdecoding.tasks.sandbox import run_python
print(run_python({attempts(kept, tmp_path / "new")!r}).output, run_python({ORDINARY!r}, stdin="one").error)
"""
    folder = Path(sandbox.__file__).parents[2]
    done = subprocess.run(
        ["unshare", "-U", "--map-user=1000", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    _check(Outcome(True, done.stdout, done.stderr), kept)


@linux
@each_python
def test_there_is_no_root(confined: None, monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    """Whether nobody can read this Python (a system's) or not (one in root's home): no capability,
    and who it is for the kernel.
    """
    monkeypatch.setattr(sandbox.sys, "executable", python)
    with sandbox._child("answer", 5, 1 << 29) as child:
        child.wait_started(5)
        lines = Path(f"/proc/{child.process.pid}/status").read_text().splitlines()
        readable = (
            os.geteuid() != 0
            or os.stat("/root").st_mode & 1
            or not os.path.realpath(python).startswith("/root/")
        )
    status = dict(line.split(":\t", 1) for line in lines)
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {f"{0:016x}"}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    if readable:
        assert "0" not in status["Uid"].split() + status["Gid"].split()


def test_nothing_keeps_running_afterwards(tmp_path: Path) -> None:
    """A process that the code forked ends with the run (where processes are limited, it cannot even
    fork).
    """
    note = tmp_path / "pid"
    code = f"""
import os, time
if os.fork() == 0:
    open({str(note)!r}, "w").write(str(os.getpid()))
    os.close(1), os.close(2)
    time.sleep(600)
while not os.path.exists({str(note)!r}) or not open({str(note)!r}).read():
    time.sleep(0.01)
"""
    run_python(code)
    if note.exists():
        left = int(note.read_text())
        try:
            assert comes_true(lambda: gone(left)), "a process that the code forked is still running"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)


@linux
def test_a_child_ends_with_a_killed_evaluator() -> None:
    code = """
import sys
from creditdecoding.tasks import sandbox
started = sandbox._Child.wait_started
def said(child, seconds):
    started(child, seconds)
    print(child.process.pid, flush=True)
sandbox._Child.wait_started = said
sandbox.run_python("import time\\ntime.sleep(600)", seconds=600)
"""
    evaluator = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(sandbox.__file__).parents[2],
    )
    assert evaluator.stdout is not None
    with evaluator.stdout:
        child = int(evaluator.stdout.readline())
    evaluator.kill()
    evaluator.wait()
    assert comes_true(lambda: gone(child))


def comes_true(condition) -> bool:  # type: ignore[no-untyped-def]
    """Whether it does before the deadline."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Whether a process is gone, or waits as a zombie for somebody to take note."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return Path("/proc/self").exists()


# what cannot be set up is said


@pytest.fixture
def weaker(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test replace steps of the confinement, in children that start meanwhile."""
    sandbox._warn.cache_clear()
    yield monkeypatch
    sandbox._warn.cache_clear()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("seccomp.confine = lambda: False", "keeps every system call"),
        ("landlock.confine = lambda folder: False", "keeps every file that this user may open"),
        ("privileges.drop_capabilities = lambda: False", "keeps the id of root"),
        ("import os; seccomp.confine = lambda: os.open('/nowhere', 0)", "keeps every system call"),
    ],
)
@linux
def test_what_the_kernel_does_not_do_is_said_once(
    confined: None,
    weaker: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    said: str,
) -> None:
    weaker.setattr(
        sandbox,
        "_START",
        sandbox._START.replace(
            "; main()", f"; from sandbox_child import landlock, privileges, seccomp; {step}; main()"
        ),
    )
    with caplog.at_level(logging.WARNING):
        assert run_python("print(1)").ok
        assert returns_expected("def f(x):\n    return x", "f", [([1], 1)])
        assert passes_tests(
            "def f(x):\n    return x", "f", "def check(candidate):\n    assert candidate(1) == 1"
        )
    assert (
        len(caplog.messages) == 1
        and said in caplog.text
        and "docs/security.md" in caplog.text
        and "\n" not in caplog.messages[0]
    )


def test_nothing_is_said_where_nothing_is_missing(
    confined: None, weaker: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_python("print(1)").ok and caplog.messages == []


def test_a_sandbox_that_does_not_start_is_an_error_and_not_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "_START", "raise SystemExit(1)")
    for judge in (
        lambda: run_python("print(1)"),
        lambda: returns_expected("", "f", []),
        lambda: passes_tests("", "f", ""),
    ):
        with pytest.raises(CreditError, match="the sandbox did not start"):
            judge()


# the filter itself


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_the_numbers_are_those_of_the_kernel(machine: str) -> None:
    if _number("read", machine) is None:
        pytest.skip("libseccomp is not here")
    column = syscalls.MACHINES.index(machine)
    listed = {
        **syscalls.ALWAYS,
        **{name: rule.numbers for name, rule in syscalls.rules(1).items()},
        "clone3": syscalls.CLONE3,
    }
    young = {"mseal", "map_shadow_stack"}  # which an older libseccomp does not know
    wrong = {
        name: (numbers, known)
        for name, numbers in listed.items()
        if (known := _number(name, machine)) != numbers[column]
    }
    assert {
        name for name, (_, known) in wrong.items() if known is not None or name not in young
    } == set()


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What a filter says of a call: the kernel's little machine, as far as our filters use it."""
    words = {0: number, 4: architecture}
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        words |= {16 + 8 * index: value & 0xFFFFFFFF, 20 + 8 * index: value >> 32 & 0xFFFFFFFF}
    register = 0
    at = 0
    while True:
        code, yes, no, value = unpack("=HBBI", program[8 * at : 8 * at + 8])
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            register = words[value]
        elif code == 0x54:
            register &= value
        else:
            assert code == 0x15
            at += yes if register == value else no


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_the_filter(machine: str) -> None:
    column = syscalls.MACHINES.index(machine)
    architecture = seccomp._ARCHITECTURES[machine]
    program = seccomp.assemble(machine, 77)
    allowed = {numbers[column] for numbers in syscalls.ALWAYS.values()} - {None}
    ruled = {name: rule.numbers[column] for name, rule in syscalls.rules(77).items()}
    for number in range(600):
        expected = (
            seccomp._ALLOW
            if number in allowed
            else seccomp._MISSING
            if number == 435
            else seccomp._REFUSE
        )
        if number not in ruled.values():
            assert verdict(program, architecture, number) == expected, number
        assert (
            verdict(program, architecture, number | 0x40000000) == seccomp._REFUSE
        )  # the x32 convention
        assert (
            verdict(program, 0x40000003, number) == seccomp._REFUSE
        )  # 32-bit calls have other numbers

    def lets(name: str, *arguments: int) -> bool:
        return verdict(program, architecture, ruled[name] or 0, *arguments) == seccomp._ALLOW

    assert (
        lets("clone", 0x3D0F00)
        and not lets("clone", 0x11)
        and not lets("clone", 0x10000 | 0x40000000)
    )
    assert (
        lets("kill", 77)
        and not lets("kill", 0)
        and not lets("kill", 0xFFFFFFFF)
        and not lets("kill", 76)
    )
    assert lets("prlimit64", 0) and lets("prlimit64", 77) and not lets("prlimit64", 1)
    assert (
        lets("fcntl", 0, 1030)
        and not lets("fcntl", 0, 8)
        and lets("ioctl", 0, 0x5401)
        and not lets("ioctl", 0, 0x5412)
    )
    assert (
        lets("sendto", 3, 1, 1, 0, 0)
        and not lets("sendto", 3, 1, 1, 0, 1 << 32)
        and not lets("sendto", 3, 1, 1, 0, 1)
    )
    assert (
        lets("socketpair", 1)
        and not lets("socketpair", 2)
        and lets("prctl", 15)
        and not lets("prctl", 22)
    )


def test_another_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        seccomp.os, "uname", lambda: os.uname_result(("Linux", "", "", "", "riscv64"))
    )
    assert seccomp.confine() is False


def test_the_child_needs_nothing_but_the_standard_library() -> None:
    """It starts without site-packages; and what every answer waits for stays short."""
    files = Path(sandbox.__file__).parent / "sandbox_child"
    heavy = "dataclasses, typing, inspect, socket, subprocess, tempfile, logging, random"
    code = f"import sys; sys.path.insert(0, {str(files.parent)!r}); import sandbox_child.child; print([m for m in {heavy.split(', ')!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
