"""Child processes that ignore Ctrl-C and end with their parent, however that ends.

process = start_process(target, arguments)      # in the parent
end_with_parent()                               # first statement of the target
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any


def start_process(target: Callable[..., None], arguments: Sequence[Any]) -> SpawnProcess:
    """Start a process with SIGINT blocked, which a terminal sends to all processes of a command."""
    process = mp.get_context("spawn").Process(target=target, args=tuple(arguments), daemon=True)
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return process
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return process


def end_processes(processes: Sequence[SpawnProcess]) -> None:
    """Terminate the processes and wait for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def end_with_parent() -> None:
    """End this process as soon as its parent is gone, and ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:  # pragma: no cover - runs in another process
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
