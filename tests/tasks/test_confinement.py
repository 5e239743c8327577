"""The sandbox: what the kernel refuses a child, and what is logged if it does not."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from creditdecoding.errors import CreditError
from creditdecoding.tasks import sandbox
from creditdecoding.tasks.sandbox import Outcome, passes_tests, returns_expected, run_python
from tests.helpers.sandboxed import (
    DEADLINE,
    ORDINARY,
    each_python,
    linux,
    syscall_number,
)

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
    numbers = {
        name: number for name in BY_NUMBER.split() if (number := syscall_number(name)) is not None
    }
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
    ("step", "warning"),
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
    warning: str,
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
        and warning in caplog.text
        and "docs/guide/security.md" in caplog.text
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
