"""Processes that a run starts: Ctrl-C is their parent's business, and they end with it, whatever
ends it.

    process = start(target, arguments)      # in the parent
    end_with_parent()                       # first thing in the target
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
    """Start a process that never hears of Ctrl-C: a terminal sends that to all, and it would break
    off with a traceback.
    """
    process = mp.get_context("spawn").Process(target=target, args=tuple(arguments), daemon=True)
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return process
    resource_tracker.ensure_running()  # it unblocks the signal when it is begun
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def end_processes(processes: Sequence[SpawnProcess]) -> None:
    """End those that still run, and wait for them."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, and by nothing that a terminal
    sends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:  # pragma: no cover - in another process
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
