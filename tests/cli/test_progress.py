"""Progress of a command on standard error, and its message if it is stopped."""

from __future__ import annotations

import io
import signal
import sys

import pytest

from creditdecoding.cli.progress import answer_progress, open_progress, progress
from creditdecoding.cli.signals import Stopped
from creditdecoding.trace import FinishEvent
from creditdecoding.viewer import progress as progress_module


class Screen(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self) -> bool:
        return True


def test_short_work_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress(2, "samples") as tick:
        tick()
        tick()
    assert stderr.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress(3, "samples") as tick:
        tick()
    assert "samples" in screen.getvalue() and "1/3" in screen.getvalue()


def test_what_comes_before_the_work_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress_module, "FIRST_SECONDS", 0.0)
    with open_progress("samples", preparing="drawing the items"):
        pass
    assert stderr.getvalue() == "drawing the items\n"
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with open_progress("samples", preparing="drawing the items") as start:
        assert "samples" not in screen.getvalue()
        start(0, 3)
    first, _, later = screen.getvalue().partition("samples")
    assert "drawing the items" in first and "0/3" in later


def test_rows_that_end_are_counted() -> None:
    with pytest.raises(Stopped) as stopped, answer_progress(9, done=4, resumable=True) as on_event:
        on_event(FinishEvent(0, "stop", (), 0.0))
        raise Stopped(signal.SIGINT)
    assert stopped.value.message == "stopped at 5 of 9; the same command goes on"


@pytest.mark.parametrize(
    ("resumable", "saved", "started", "message"),
    [
        (False, None, True, "interrupted"),
        (True, None, False, "interrupted"),
        (True, None, True, "stopped at 4 of 9; the same command goes on"),
        (True, 4, True, "stopped at 4 of 9; the same command goes on"),
        (True, 3, True, "stopped at 4 of 9; the same command goes on from 3"),
    ],
)
def test_the_message_of_a_stopped_command(
    resumable: bool, saved: int | None, started: bool, message: str
) -> None:
    saved_count = None if saved is None else lambda: saved
    with (
        pytest.raises(Stopped) as stopped,
        open_progress("steps", resumable, saved_count) as start,
    ):
        if started:
            tick = start(3, 9)
            tick()
        raise Stopped(signal.SIGTERM)
    assert (stopped.value.message, stopped.value.status) == (message, 143)
