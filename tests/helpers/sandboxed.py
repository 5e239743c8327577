"""What the tests of the sandbox share."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel refuses is Linux's")
SYSTEM_PYTHON = "/usr/bin/python3"
each_python = pytest.mark.parametrize(
    "python",
    [
        sys.executable,
        pytest.param(
            SYSTEM_PYTHON,
            marks=pytest.mark.skipif(
                sys.platform != "linux" or not os.access(SYSTEM_PYTHON, os.X_OK),
                reason="no such Python here",
            ),
        ),
    ],
)
"""This Python, which may lie in root's home, and the system's, which everybody can read."""
DEADLINE = 60
"""Seconds after which a condition that never comes true fails a test."""


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


def syscall_number(name: str, machine: str = "") -> int | None:
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
