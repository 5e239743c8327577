"""Runs untrusted Python in a child process: time, memory, file and process limits, no network, an empty folder.

On Linux (x86-64, arm64) the kernel holds it to that, without any privilege: seccomp refuses sockets, new processes, signals and changes
of owner or mode, Landlock refuses to write anywhere but in the folder. Elsewhere, and under kernels without them, what remains are the
resource limits and a Python-level refusal of sockets. Never covered: reading files that this user may read; many small files in the
folder; raising the limits again, if this user is root.
Leaves to others: what to run and how to judge what it printed. A guard against accidents and sloppy code of a language model; against an
attacker use a virtual machine.
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

_GUARD = r"""
import resource, socket, sys
def _confine():
    import ctypes, os, struct
    libc = ctypes.CDLL(None, use_errno=True)
    arch, calls, clone = {
        "x86_64": (0xC000003E, (41, 42, 49, 57, 58, 62, 76, 90, 91, 92, 93, 94, 101, 200, 234, 260, 268, 310, 311, 424, 425, 438, 452), 56),
        "aarch64": (0xC00000B7, (198, 200, 203, 45, 52, 53, 54, 55, 117, 129, 130, 131, 270, 271, 424, 425, 438, 452), 220),
    }[os.uname().machine]
    if libc.prctl(38, 1, 0, 0, 0):
        return
    write = 0x1FF2 | (0x4000 if libc.syscall(444, None, 0, 1) >= 3 else 0)  # every right to change files; the third version knows truncation
    rules = libc.syscall(444, ctypes.byref(ctypes.c_uint64(write)), 8, 0)
    if rules >= 0:
        here = os.open(".", os.O_PATH)
        beneath = ctypes.create_string_buffer(struct.pack("=Qi", write, here))
        null = os.open("/dev/null", os.O_PATH)
        nothing = ctypes.create_string_buffer(struct.pack("=Qi", 2, null))
        if not libc.syscall(445, rules, 1, beneath, 0) and not libc.syscall(445, rules, 1, nothing, 0):
            libc.syscall(446, rules, 0)
        os.close(here), os.close(null), os.close(rules)
    def op(code, value, yes=0, no=0):
        return struct.pack("=HBBI", code, yes, no, value)
    refuse, allow, load, equal = 0x50000 | 13, 0x7FFF0000, 0x20, 0x15
    program = [op(load, 4), op(equal, arch, 1, 0), op(6, refuse), op(load, 0)]
    for call in calls:
        program += [op(equal, call, 0, 1), op(6, refuse)]
    program += [op(equal, 435, 0, 1), op(6, 0x50000 | 38)]  # clone3 is "not implemented", so that threads fall back to clone
    program += [op(equal, clone, 0, 3), op(load, 16), op(0x45, 0x10000, 1, 0), op(6, refuse), op(6, allow)]
    if arch == 0xC000003E:  # the x32 calling convention has numbers of its own
        program[4:4] = [op(0x35, 0x40000000, 0, 1), op(6, refuse)]
    code = ctypes.create_string_buffer(b"".join(program))
    class _Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
    libc.prctl(22, 2, ctypes.byref(_Filter(len(program), ctypes.addressof(code))), 0, 0)
def _limit(kind, value):
    try:
        resource.setrlimit(kind, (value, value))
    except (ValueError, OSError):
        pass
class _Refused(socket.socket):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if fileno is None:  # not an end of a socket pair, which asyncio makes
            raise OSError("no network in the sandbox")
        super().__init__(family, type, proto, fileno)
socket.socket = _Refused
_limit(resource.RLIMIT_AS, {memory})
_limit(resource.RLIMIT_CPU, {seconds})
_limit(resource.RLIMIT_FSIZE, 1 << 20)
_limit(resource.RLIMIT_NPROC, 0)
_limit(resource.RLIMIT_CORE, 0)
if sys.platform == "linux":
    try:
        _confine()
    except Exception:
        pass
_source = sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
del _confine, _limit
exec(compile(_source, "<answer>", "exec"), {"__name__": "__main__"})
"""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with: `ok` is exit status 0 within the limits; `output` is what it printed; `error` the last line of why not."""

    ok: bool
    output: str
    error: str


def run_python(code: str, seconds: int = 5, memory: int = 512 << 20, given: str = "") -> Outcome:
    """Run `code` in a fresh interpreter under limits (seconds of time, bytes of memory); it reads `given` from standard input."""
    guard = _GUARD.replace("{memory}", str(memory)).replace("{seconds}", str(seconds))
    source = code.encode(errors="replace")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-I", "-S", "-c", guard]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors, cwd=folder, env={}, start_new_session=True)
        try:
            child.communicate(b"%d\n%s%s" % (len(source), source, given.encode(errors="replace")), timeout=seconds + 1)
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
