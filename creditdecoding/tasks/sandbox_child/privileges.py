"""No root: a process that root started becomes nobody, all capabilities are dropped, and no program
it could start brings them back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from struct import pack

NOBODY = 65534
_NEW_USER = 0x10000000
_CAPABILITIES_3 = 0x20080522
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38


def become_nobody(folder: str) -> None:
    """If this is root: take the id of another user, who then owns `folder`. Not if that user cannot
    read this Python (below /root, for example).
    """
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        readable = _readable(folder)
        os.seteuid(0)
        os.setegid(0)
        if readable:
            os.chown(folder, NOBODY, NOBODY)
            os.setgid(NOBODY)
            os.setuid(NOBODY)


def _readable(folder: str) -> bool:
    """Whether the standard library with its compiled part can be read and the folder can be reached
    by its path.
    """
    try:
        for path in filter(os.path.isdir, sys.path):
            os.listdir(path)
        os.close(os.open(os.__file__, os.O_RDONLY))
        os.stat(os.path.abspath(folder))
    except OSError:
        return False
    return True


def enter_namespace() -> bool:
    """Enter a new user namespace. Returns whether the system allows it (Linux; some containers
    forbid it).

    In it no capability counts, other processes are out of reach even if they belong to the same
    user, and a limit on processes counts only those of the namespace. For files outside, the user
    stays the same.
    """
    return bool(sys.platform == "linux" and ctypes.CDLL(None).unshare(_NEW_USER) == 0)


def drop_capabilities() -> bool:
    """Give up every capability, and never get one by starting a program. This process ends with its
    parent. Returns whether no right of root is left.
    """
    if sys.platform != "linux":
        return os.geteuid() != 0
    libc = ctypes.CDLL(None)
    none = bytes(24)
    dropped = libc.capset(pack("=Ii", _CAPABILITIES_3, 0), none) == 0
    fixed = libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    return bool(dropped and fixed and os.geteuid() != 0)
