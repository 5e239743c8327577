"""Decoding drawn in the terminal, and traces as tables."""

import io
import re

import pytest
from rich.console import Console

from creditdecoding.trace import Event, Trace
from creditdecoding.viewer import terminal
from tests.helpers.traces import END, MARKUP, infilled_trace, piece, two_block_trace


def replay(trace: Trace) -> tuple[list[Event], Trace]:
    """The events of a trace, and an empty trace to put them into."""
    assert trace.finish is not None
    return [*trace.steps, trace.finish], Trace(trace.prompt, settings=trace.settings)


def screen(**options: object) -> Console:
    """A terminal of 100 x 40 that remembers what it showed."""
    shape = {
        "width": 100,
        "height": 40,
        "color_system": "truecolor",
        "file": io.StringIO(),
        "_environ": {},
    }
    return Console(record=True, force_terminal=True, **{**shape, **options})  # type: ignore[arg-type]


def test_watch_ends_with_the_final_text() -> None:
    console = screen()
    events, empty = replay(two_block_trace())
    assert (
        terminal.watch(iter(events), empty, piece, ends=(END,), console=console)
        == two_block_trace()
    )
    last = console.export_text().rsplit("╭", 1)[-1]
    assert "The cat sat.∎" in last and "∎∎" not in last
    assert "·" not in last.split("╰")[0]
    assert re.search(r"NFE 4 +tokens 4 +TPF 1\.00 +done", last)


def test_watch_shows_masks_and_candidates_on_the_way() -> None:
    console = screen()
    events, empty = replay(two_block_trace())
    terminal.watch(iter(events[:1]), empty, piece, ends=(END,), console=console)
    text = console.export_text()
    assert "· · · · · · · · ·" in text, "nine masks before the first pass"
    assert "The. sat· · · · · ·" in text and "block 1  step 1" in text


def test_watch_keeps_the_current_block_in_a_low_terminal() -> None:
    console = screen(width=12, height=7)
    events, empty = replay(two_block_trace())
    terminal.watch(iter(events[:3]), empty, piece, console=console)
    last = console.export_text().rsplit("╭", 1)[-1]
    assert "<|en" in last and "The" not in last


def test_watch_respects_no_color() -> None:
    out = io.StringIO()
    events, empty = replay(two_block_trace())
    terminal.watch(iter(events), empty, piece, console=screen(file=out, _environ={"NO_COLOR": "1"}))
    assert "38;2" not in out.getvalue() and "unsure" not in out.getvalue()


@pytest.mark.parametrize("options", [{}, {"decode": lambda ids: f"{len(ids)} tokens"}])
def test_watch_prints_only_the_text_where_nobody_watches(options: dict) -> None:
    out = io.StringIO()
    events, empty = replay(two_block_trace())
    shown = terminal.watch(
        iter(events), empty, piece, console=Console(file=out, width=5, _environ={}), **options
    )
    assert shown == two_block_trace()
    assert out.getvalue() == ("4 tokens\n" if options else "The cat sat.\n")


def test_watch_of_an_infilled_text_marks_the_gaps() -> None:
    console = screen()
    events, empty = replay(infilled_trace())
    terminal.watch(iter(events), empty, piece, ends=(1,), console=console)
    assert f" cat … {MARKUP}" in console.export_text()


def test_watch_waits_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(terminal.time, "sleep", slept.append)
    events, empty = replay(two_block_trace())
    terminal.watch(iter(events), empty, piece, console=screen(), delay=30)
    assert len(slept) == 4 and all(29 < seconds <= 30 for seconds in slept)


def test_table_has_a_row_a_pass() -> None:
    console = Console(record=True, width=100, file=io.StringIO(), _environ={})
    terminal.print_trace(two_block_trace(), piece, console)
    rows = [line.split() for line in console.export_text().splitlines() if re.match(r" *\d", line)]
    assert [row[:4] for row in rows] == [
        ["1", "1", "1", "1"],
        ["2", "1", "2", "0"],
        ["3", "2", "1", "2"],
        ["4", "2", "2", "0"],
    ]
    assert rows[0][4:] == ["The", ".95", "0.5", "␣sat", ".91", "2.5"]
