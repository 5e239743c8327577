"""Confines this process for good: limits, no root, files, system calls, in an order in which each
step still allows the next.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import resource
import sys
from collections.abc import Callable

from . import landlock, privileges, seccomp

_FILE = 1 << 20
_OPEN_FILES = 64
_THREADS = 64


def confine(seconds: int, memory: int) -> list[str]:
    """Confine this process to its working folder, time and memory; what of it the system does not
    do: "root", "files", "calls".
    """
    _socket.socket = _NoSocket  # type: ignore[assignment, misc]
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(kind, value)
    privileges.become_nobody(os.curdir)
    apart = privileges.enter_namespace()
    unprivileged = privileges.drop_capabilities()
    files = _done(lambda: landlock.confine(os.curdir))
    calls = _done(seccomp.confine)
    if apart:
        _limit(resource.RLIMIT_NPROC, _THREADS)  # elsewhere it counts all that the user runs
    elif not calls:
        _limit(resource.RLIMIT_NPROC, 0)  # no processes, though no threads either
    done = {"root": unprivileged, "files": files, "calls": calls}
    return [what for what in done if not done[what]]


def _done(step: Callable[[], bool]) -> bool:
    """Whether a step of Linux's was done."""
    if sys.platform != "linux":
        return False
    try:
        return step()
    except (OSError, AttributeError):
        return False


def _limit(kind: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


class _NoSocket(_socket.socket):
    """Says why there is no network. An end of a socket pair, which asyncio makes, has a file
    already.
    """

    __slots__ = ()

    def __init__(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
    ) -> None:
        if fileno is None:
            raise PermissionError(errno.EPERM, "no network in the sandbox")
        super().__init__(family, type, proto, fileno)
