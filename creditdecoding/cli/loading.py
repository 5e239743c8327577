"""Progress while bytes are read, shown only if it takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import DownloadColumn

from creditdecoding.viewer.progress import (
    ProgressBar,
    ProgressDisplay,
    ProgressLines,
    WorkProgress,
    is_terminal,
)

LONG_BYTES = 200 * 2**20
LONG_SECONDS = 1.0


@contextmanager
def loading_progress(text: str = "loading") -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with the bytes read so far and the bytes in all.

    A terminal gets a bar if there are many bytes or reading has lasted a second; elsewhere lines
    appear as for all long work.
    """
    work = WorkProgress(text)
    on_terminal = is_terminal(sys.stderr)
    display: ProgressDisplay
    if on_terminal:
        display = ProgressBar(work, sys.stderr, (DownloadColumn(),), speed_period=30)
    else:
        display = ProgressLines(work, sys.stderr.write, amount=lambda done: f"{done / 1e9:.1f} GB")
    first_call: float | None = None
    is_shown = False

    def on_progress(done: int, total: int) -> None:
        nonlocal first_call, is_shown
        now = time.monotonic()
        first_call = first_call or now
        work.done = done
        work.total = total
        is_long = total > LONG_BYTES or now - first_call > LONG_SECONDS
        if not is_shown and (is_long or not on_terminal):
            is_shown = True
            display.start()
        display.advance()

    try:
        yield on_progress
    finally:
        display.stop()
