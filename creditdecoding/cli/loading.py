"""How far the reading of weights is, where there is something to wait for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import DownloadColumn

from creditdecoding.viewer.progress import ProgressBar, ProgressLines, WorkProgress, is_terminal

LONG_BYTES = 200 * 2**20
LONG_SECONDS = 1.0


@contextmanager
def loading_progress() -> Iterator[Callable[[int, int], None]]:
    """To be called with the bytes read and the bytes there are.

    On a terminal a bar shows what is long or has lasted a second; elsewhere lines are written as of
    all long work.
    """
    far = WorkProgress("loading")
    terminal = is_terminal(sys.stderr)
    if terminal:
        shown: ProgressBar | ProgressLines = ProgressBar(far, sys.stderr, (DownloadColumn(),), 30)
    else:
        shown = ProgressLines(far, sys.stderr.write, amount=lambda count: f"{count / 1e9:.1f} GB")
    begun: float | None = None
    started = False

    def on_progress(done: int, total: int) -> None:
        nonlocal begun, started
        now = time.monotonic()
        begun = now if begun is None else begun
        far.done = done
        far.total = total
        long = not terminal or total > LONG_BYTES or now - begun > LONG_SECONDS
        if long and not started:
            started = True
            shown.start()
        shown.advance()

    try:
        yield on_progress
    finally:
        shown.stop()
