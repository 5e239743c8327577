"""Landlock: this process may read the files that Python needs and write in its own folder, and
reach no other file.

The kernel (5.13 and later) does it without privileges. Later versions of its interface know more
rights; a kernel is only asked for those it knows.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from struct import pack

_CREATE = 444
_ADD = 445
_RESTRICT = 446
_VERSION_FLAG, _BENEATH = 1, 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_CHANGE = 0x1FF0
"""Remove and make files and folders of all kinds."""
_MOVE = 1 << 13
_TRUNCATE = 1 << 14
_DEVICE = 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE
_TCP = 0b11
_SCOPES = 0b11
"""Abstract Unix sockets and signals reach only processes of this confinement."""

_SYSTEM = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/nix/store",
    "/gnu/store",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
    "/dev/stdin",
)


def confine(folder: str) -> bool:
    """Restrict this thread, and those it starts, to Python's own files and to `folder`. Returns
    whether the kernel does it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, 0, _VERSION_FLAG)
    if version < 1:
        return False
    handled = _rights(version)
    rules = _ruleset(libc, version, handled)
    if rules < 0:
        return False
    reading = _READ_FILE | _READ_DIR
    for path in dict.fromkeys((*_python(), *_SYSTEM)):
        _allow(libc, rules, path, reading)
    _allow(libc, rules, "/dev/null", handled & (_READ_FILE | _WRITE_FILE | _TRUNCATE))
    folder_allowed = _allow(libc, rules, folder, handled & ~_EXECUTE)
    confined = folder_allowed and libc.syscall(_RESTRICT, rules, 0) == 0
    os.close(rules)
    return confined


def _rights(version: int) -> int:
    """All rights to files that this version knows."""
    rights = _EXECUTE | _WRITE_FILE | _READ_FILE | _READ_DIR | _CHANGE
    if version >= 2:
        rights |= _MOVE
    if version >= 3:
        rights |= _TRUNCATE
    if version >= 5:
        rights |= _DEVICE
    return rights


def _ruleset(libc: ctypes.CDLL, version: int, handled: int) -> int:
    """A new set of rules (the kernel's `struct landlock_ruleset_attr`). The handled rights are
    forbidden except where a rule allows them.
    """
    attributes = pack("=Q", handled)
    if version >= 4:
        attributes += pack("=Q", _TCP)
    if version >= 6:
        attributes += pack("=Q", _SCOPES)
    return int(libc.syscall(_CREATE, attributes, len(attributes), 0))


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> bool:
    """Allow `rights` to a file, or to a folder and everything in it. False if it does not exist."""
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    if not os.path.isdir(path):
        rights &= _OF_FILES
    beneath = pack("=Qi", rights, file)
    added = libc.syscall(_ADD, rules, _BENEATH, beneath, 0) == 0
    os.close(file)
    return bool(added)


def _python() -> Iterable[str]:
    """Folders of this Python's own files: those it imports from, and those of loaded libraries."""
    yield from (path for path in sys.path if path)
    yield os.path.join(sys.base_prefix, "lib")
    with open("/proc/self/maps") as lines:
        mapped = {line.split(maxsplit=5)[5].strip() for line in lines if "/" in line}
    yield from (os.path.dirname(path) for path in mapped if ".so" in path)
