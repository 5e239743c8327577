"""Progress as lines: the first soon, then one a minute, with the time left."""

from __future__ import annotations

import threading

import pytest

from creditdecoding.viewer import progress as view
from creditdecoding.viewer.progress import ProgressLines, WorkProgress, duration


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_soon_and_then_once_a_minute() -> None:
    clock = Clock()
    work = WorkProgress("samples")
    written: list[str] = []
    lines = ProgressLines(work, written.append, clock)
    work.begin(100, 400)
    lines.begin()
    counts = {0: 100, 4: 110, 5: 120, 6: 121, 60: 130, 66: 166, 100: 200, 127: 400}
    for second, done in counts.items():
        clock.now = 100.0 + second
        work.done = done
        lines.write_if_due()
    assert written == [
        "samples: 120 of 400, 70 s left\n",
        "samples: 166 of 400, 4 min left\n",
        "samples: 400 of 400\n",
    ]


def test_a_line_says_what_is_known() -> None:
    work = WorkProgress("loading")
    lines = ProgressLines(work, lambda _: None, Clock(), lambda count: f"{count} B")
    lines.begin()
    assert lines.line(101.0) == "loading"
    work.begin(0, 8)
    assert lines.line(101.0) == "loading: 0 B of 8 B"
    work.done = 2
    assert lines.line(110.0) == "loading: 2 B of 8 B, 30 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5400, "1 h 30 min"), (90000, "25 h 0 min")],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_thread_writes_the_lines_while_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view, "FIRST_SECONDS", 0.0)
    written = threading.Event()
    lines = ProgressLines(WorkProgress("steps", total=3), lambda _: written.set())
    lines.start()
    assert written.wait(60)
    lines.stop()
