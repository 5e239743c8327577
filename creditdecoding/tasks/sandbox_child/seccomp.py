"""A seccomp filter that allows the system calls listed in `syscalls` and answers "not permitted" to
all others.

A filter is a program for a small machine in the kernel (classic BPF): load a word of the call's
description into the only register, compare, jump forward, return.
"""

from __future__ import annotations

import ctypes
import errno
import os
from struct import pack

from .syscalls import ALWAYS, CLONE3, MACHINES, ArgumentRule, rules

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD = 0x20
_AND = 0x54
_EQUAL = 0x15
_RETURN = 0x06
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENTS = 16
"""Where a call's description has these words, in bytes."""

_ALLOW = 0x7FFF0000
_ERROR = 0x00050000
_REFUSE = _ERROR | errno.EPERM
_MISSING = _ERROR | errno.ENOSYS

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def confine() -> bool:
    """Restrict this thread, and those it starts, to the listed calls. Returns whether it worked."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        return False
    program = assemble(machine, os.getpid())
    code = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(header), 0, 0) == 0)


class _Program(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def assemble(machine: str, pid: int) -> bytes:
    """The filter's code for the process with this id on this machine."""
    column = MACHINES.index(machine)
    code = [_load(_ARCHITECTURE), _skip_if(_ARCHITECTURES[machine], 1), _return(_REFUSE)]
    code.append(_load(_NUMBER))
    for numbers in ALWAYS.values():
        code += _when(numbers[column], [_return(_ALLOW)])
    for rule in rules(pid).values():
        code += _when(rule.numbers[column], _checked(rule))
    code += _when(CLONE3[column], [_return(_MISSING)])
    code.append(_return(_REFUSE))
    return b"".join(code)


def _when(number: int | None, then: list[bytes]) -> list[bytes]:
    """`then`, which ends the program, if the call has this number."""
    if number is None:
        return []
    return [_skip_unless(number, len(then)), *then]


def _checked(rule: ArgumentRule) -> list[bytes]:
    """Allow if the argument fits, else refuse."""
    low = _ARGUMENTS + 8 * rule.argument
    code = []
    if rule.pointer:
        code += [_load(low + 4), _skip_if(0, 1), _return(_REFUSE)]
    code += [_load(low), _and(rule.mask)]
    for value in rule.values:
        code += [_skip_unless(value, 1), _return(_ALLOW)]
    return [*code, _return(_REFUSE)]


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, offset)


def _and(mask: int) -> bytes:
    return _instruction(_AND, mask)


def _skip_if(value: int, count: int) -> bytes:
    """Skip the next `count` instructions if the register is `value`."""
    return _instruction(_EQUAL, value, when_true=count)


def _skip_unless(value: int, count: int) -> bytes:
    """Skip the next `count` instructions if the register is not `value`."""
    return _instruction(_EQUAL, value, when_false=count)


def _return(verdict: int) -> bytes:
    return _instruction(_RETURN, verdict)


def _instruction(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    """The kernel's `struct sock_filter`."""
    return pack("=HBBI", code, when_true, when_false, value)
