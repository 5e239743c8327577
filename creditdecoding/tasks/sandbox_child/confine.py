"""Confines this process permanently: limits, no root, files, system calls. The order matters: each
step must still allow the next.
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

_FILE_SIZE = 1 << 20
_OPEN_FILES = 64
_THREADS = 64


def confine(seconds: int, memory: int) -> list[str]:
    """Confine this process to its working folder, to `seconds` of CPU time and to `memory` bytes.
    Returns what this system could not take away: "root", "files", "calls".
    """
    _socket.socket = _NoSocket  # type: ignore[assignment, misc]
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, _FILE_SIZE),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(limit, value)
    privileges.become_nobody(os.curdir)
    in_namespace = privileges.enter_namespace()
    unprivileged = privileges.drop_capabilities()
    files = _succeeds(lambda: landlock.confine(os.curdir))
    calls = _succeeds(seccomp.confine)
    if in_namespace:
        # Outside a namespace this limit counts everything that the user runs.
        _limit(resource.RLIMIT_NPROC, _THREADS)
    elif not calls:
        _limit(resource.RLIMIT_NPROC, 0)  # no processes, though no threads either
    taken = {"root": unprivileged, "files": files, "calls": calls}
    return [name for name in taken if not taken[name]]


def _succeeds(step: Callable[[], bool]) -> bool:
    """Whether a step that only Linux has was taken."""
    if sys.platform != "linux":
        return False
    try:
        return step()
    except (OSError, AttributeError):
        return False


def _limit(resource_id: int, value: int) -> None:
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource_id, (value, value))


class _NoSocket(_socket.socket):
    """Refuses with the reason why there is no network. Ends of a socket pair, which asyncio makes,
    already have a file.
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
