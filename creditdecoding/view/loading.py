"""A progress bar while weights are read, where somebody can see it and there is something to wait for.

Leaves to others: reading (models/weights.py), which calls what `bar` gives.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

LONG_BYTES, LONG_SECONDS = 200 * 2**20, 1.0


@contextmanager
def bar() -> Iterator[Callable[[int, int], None]]:
    """To be called with the bytes read and the bytes there are; shows on a terminal what is long or has lasted a second."""
    shown = Progress(TextColumn("loading"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task, seen, begun = shown.add_task("loading"), sys.stderr.isatty(), 0.0

    def on_progress(done: int, total: int) -> None:
        nonlocal begun
        begun = begun or time.monotonic()
        shown.update(task, completed=done, total=total)
        if seen and (total > LONG_BYTES or time.monotonic() - begun > LONG_SECONDS):
            shown.start()

    try:
        yield on_progress
    finally:
        if shown.live.is_started:
            shown.stop()
