"""Progress as lines: the first soon, then one a minute, with the time left; and what is said of
work that was stopped.
"""

from __future__ import annotations

import io
import signal
import sys
import threading

import pytest

from creditdecoding.cli.progress import answer_progress, open_progress, progress
from creditdecoding.cli.signals import Stopped
from creditdecoding.trace import FinishEvent
from creditdecoding.viewer import progress as view
from creditdecoding.viewer.progress import ProgressLines, WorkProgress, duration


class Clock:
    """A clock that stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_come_soon_and_then_once_a_minute() -> None:
    clock = Clock()
    far = WorkProgress("samples")
    written: list[str] = []
    lines = ProgressLines(far, written.append, clock)
    far.begin(100, 400)
    lines.begin()
    for second, done in (
        (0, 100),
        (4, 110),
        (5, 120),
        (6, 121),
        (60, 130),
        (66, 166),
        (100, 200),
        (127, 400),
    ):
        clock.now = 100.0 + second
        far.done = done
        lines.write_if_due()
    assert written == [
        "samples: 120 of 400, 70 s left\n",
        "samples: 166 of 400, 4 min left\n",
        "samples: 400 of 400\n",
    ]


def test_a_line_says_what_is_known() -> None:
    far = WorkProgress("loading")
    lines = ProgressLines(far, lambda _: None, Clock(), lambda count: f"{count} B")
    lines.begin()
    assert lines.line(101.0) == "loading"
    far.begin(0, 8)
    assert lines.line(101.0) == "loading: 0 B of 8 B"
    far.done = 2
    assert lines.line(110.0) == "loading: 2 B of 8 B, 30 s left"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1 h 30 min"), (90000, "25 h 0 min")],
)
def test_times_are_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_thread_writes_the_lines_while_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view, "FIRST_SECONDS", 0.0)
    written = threading.Event()
    lines = ProgressLines(WorkProgress("steps", total=3), lambda _: written.set())
    lines.start()
    assert written.wait(60)
    lines.stop()


def test_short_work_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    with progress(2, "samples") as tick:
        tick()
        tick()
    assert said.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress(3, "samples") as tick:
        tick()
    assert "samples" in screen.getvalue() and "1/3" in screen.getvalue()


def test_rows_that_end_are_counted() -> None:
    with pytest.raises(Stopped) as stopped, answer_progress(9, done=4, resumable=True) as on_event:
        on_event(FinishEvent(0, "stop", (), 0.0))
        raise Stopped(signal.SIGINT)
    assert stopped.value.message == "stopped at 5 of 9; the same command goes on"


@pytest.mark.parametrize(
    ("kept", "saved", "begun", "said"),
    [
        (False, None, True, "interrupted"),
        (True, None, False, "interrupted"),
        (True, None, True, "stopped at 4 of 9; the same command goes on"),
        (True, 4, True, "stopped at 4 of 9; the same command goes on"),
        (True, 3, True, "stopped at 4 of 9; the same command goes on from 3"),
    ],
)
def test_what_is_said_of_work_that_was_stopped(
    kept: bool, saved: int | None, begun: bool, said: str
) -> None:
    with (
        pytest.raises(Stopped) as stopped,
        open_progress("steps", kept, None if saved is None else lambda: saved) as start,
    ):
        if begun:
            start(3, 9)()
        raise Stopped(signal.SIGTERM)
    assert (stopped.value.message, stopped.value.status) == (said, 143)
