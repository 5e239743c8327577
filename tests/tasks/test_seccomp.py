"""The filter of system calls, run as the kernel runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from struct import unpack

import pytest

from creditdecoding.tasks import sandbox
from creditdecoding.tasks.sandbox_child import seccomp, syscalls
from tests.helpers.sandboxed import syscall_number


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_the_numbers_are_those_of_the_kernel(machine: str) -> None:
    if syscall_number("read", machine) is None:
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
        if (known := syscall_number(name, machine)) != numbers[column]
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
    counter = 0
    while True:
        code, yes, no, value = unpack("=HBBI", program[8 * counter : 8 * counter + 8])
        counter += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            register = words[value]
        elif code == 0x54:
            register &= value
        else:
            assert code == 0x15
            counter += yes if register == value else no


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
