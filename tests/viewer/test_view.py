"""Traces drawn: frames against the trace, and each rendering against the frames."""

import io
import json
import re

import pytest
from rich.console import Console

from creditdecoding.trace import Event, FinishEvent, StepEvent, Trace
from creditdecoding.viewer import colours as colour
from creditdecoding.viewer import terminal
from creditdecoding.viewer.frames import Frame, escape_controls, frame_deltas, frames, short_label
from creditdecoding.viewer.html import trace_html

EVIL = "</script><img src=x>"
WORDS = ["The", " cat", " sat", ".", "\n", EVIL, "<|end|>"]
END = 6


def piece(token: int) -> str:
    return WORDS[token]


def step(
    forward: int,
    block: int,
    number: int,
    start: int,
    tokens: list[int],
    confidence: list[float],
    done: list[int],
    credit: float | None,
) -> StepEvent:
    """An event of masked positions `start`..; `done` are those committed, by place in the list; a
    token below 0 is no mask any more.
    """
    kept = [i for i, token in enumerate(tokens) if token >= 0]
    return StepEvent(
        row=0,
        forward=forward,
        block=block,
        step=number,
        positions=tuple(start + i for i in kept),
        tokens=tuple(tokens[i] for i in kept),
        confidence=tuple(confidence[i] for i in kept),
        credit=None if credit is None else tuple(credit + i for i in kept),
        committed=tuple(i in done for i in kept),
        seconds=0.1 * (forward + 1),
    )


def made(credit: float | None = 0.5, prompt: tuple[int, ...] = (9, 9, 9)) -> Trace:
    """Two blocks of three: "The cat sat" + ". <end> <end>" in four passes, decoded out of order."""
    at = len(prompt)
    steps = [
        step(0, 0, 0, at, [0, 3, 2], [0.95, 0.3, 0.91], [0, 2], credit),
        step(1, 0, 1, at, [-1, 1, -1], [0, 0.8, 0], [1], credit),
        step(2, 1, 0, at + 3, [4, 6, 6], [0.2, 0.99, 0.5], [1], credit),
        step(3, 1, 1, at + 3, [3, -1, 6], [0.9, 0, 0.9], [0, 2], credit),
    ]
    settings = {"decoder": {"name": "credit" if credit else "threshold"}, "gen_length": 9}
    return Trace(prompt, steps, FinishEvent(0, "stop", (0, 1, 2, 3), 0.4), settings=settings)


def infilled() -> Trace:
    steps = [StepEvent(0, 0, 0, 0, (1, 4), (1, 5), (0.7, 0.9), None, (False, True), 0.1)]
    steps.append(StepEvent(0, 1, 0, 1, (1,), (1,), (0.8,), None, (True,), 0.2))
    return Trace(
        (), steps, FinishEvent(0, "length", (0, 1, 2, 3, 5), 0.2), settings={"gen_length": 128}
    )


def replay(trace: Trace) -> tuple[list[Event], Trace]:
    """The events of a trace, and an empty trace to put them into."""
    assert trace.finish is not None
    return [*trace.steps, trace.finish], Trace(trace.prompt, settings=trace.settings)


def states(frame: Frame) -> str:
    return "".join(cell.state[0] for cell in frame.cells)


def test_frames_follow_the_trace() -> None:
    trace = made()
    film = frames(trace, piece)
    assert len(film) == trace.nfe == film[-1].nfe
    assert [states(frame) for frame in film] == ["nmnmmm", "bnbmmm", "bbbmnm", "bbbnbn"]
    assert [frame.masks_left for frame in film] == [1, 0, 2, 0]
    assert [cell.position for cell in film[0].cells] == list(range(6))
    assert [cell.commit for cell in film[-1].cells] == [1, 2, 1, 4, 3, 4]
    assert [cell.tail for cell in film[-1].cells] == [False] * 4 + [True] * 2
    assert (film[-1].written, film[-1].tpf) == (len(trace.tokens), trace.tpf)
    assert {cell.position + 3: cell.token for cell in film[-1].cells} == trace.written
    candidate, unasked = film[0].cells[1], film[0].cells[3]
    assert (candidate.text, candidate.confidence, candidate.credit) == (".", 0.3, 1.5)
    assert (unasked.text, unasked.token, unasked.confidence, unasked.credit, unasked.block) == (
        "",
        None,
        None,
        None,
        None,
    )
    assert film[-1].cells[0] == film[1].cells[0], "a written token keeps what it was written with"


def test_frames_of_an_infilled_text_have_absolute_positions() -> None:
    film = frames(infilled(), piece)
    assert [cell.position for cell in film[0].cells] == [1, 4]
    assert [states(frame) for frame in film] == ["mn", "nb"]
    assert film[-1].written == 2 and not any(cell.tail for cell in film[-1].cells)


def test_frames_of_traces_without_credit_without_end_and_without_steps() -> None:
    assert all(cell.credit is None for frame in frames(made(None), piece) for cell in frame.cells)
    running = Trace((9,), made(prompt=(9,)).steps[:2])
    assert [states(frame) for frame in frames(running, piece)] == ["nmn", "bnb"]
    assert frames(Trace((9,)), piece) == []


def test_labels_show_what_cannot_be_seen() -> None:
    assert [short_label(text) for text in (" cat", " ", "\n", "a" * 20)] == [
        "cat",
        "␣",
        "↵",
        "a" * 11 + "…",
    ]
    assert escape_controls("a\x1b[2J\n\tb") == "a␛[2J\n\tb"


@pytest.mark.parametrize("ramp", [colour.LIGHT, colour.DARK, colour.INK, colour.CREDIT])
def test_ramps_meet_their_ends(ramp: colour.Ramp) -> None:
    assert (
        colour.colour_at(ramp, -1) == colour.colour_at(ramp, 0) == ramp[0]
        and colour.colour_at(ramp, 1) == colour.colour_at(ramp, 2) == ramp[-1]
    )


# HTML


def embedded(page: str) -> dict:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert len(found) == 1
    return json.loads(found[0])


def test_page_embeds_the_frames() -> None:
    traces = [("credit", made()), ("threshold", made(None)), ("infill", infilled())]
    data = embedded(trace_html(traces, piece, "Prompt"))
    for (name, trace), found in zip(traces, data["traces"]):
        film = frames(trace, piece)
        assert found["name"] == name and found["frames"] == frame_deltas(film)
        assert found["positions"] == [cell.position for cell in film[-1].cells]
        assert found["tail"] == [i for i, cell in enumerate(film[-1].cells) if cell.tail]
        cells: dict[int, dict] = {}
        for frame, shown in zip(film, found["frames"]):
            cells |= {cell["index"]: cell for cell in shown["cells"]}
            assert [cells[i]["state"] for i in range(len(frame.cells))] == [
                cell.state for cell in frame.cells
            ]
            assert [cells[i].get("confidence") for i in range(len(frame.cells))] == [
                cell.confidence for cell in frame.cells
            ]
            assert [cells[i].get("text", "") for i in range(len(frame.cells))] == [
                cell.text for cell in frame.cells
            ]


def test_page_asks_for_nothing_outside() -> None:
    page = trace_html([("credit", made())], piece, "Prompt")
    assert not re.search(r"https?:|src=|@import|url\(|fetch\(|innerHTML", page)


def test_page_escapes_tokens_names_and_title() -> None:
    page = trace_html([(EVIL + "\u2028", infilled())], piece, EVIL)
    assert "<img" not in page and page.count("</script>") == 2
    data = embedded(page)
    assert data["traces"][0]["name"] == EVIL + "\u2028"
    assert any(cell.get("text") == EVIL for cell in data["traces"][0]["frames"][0]["cells"])


def test_page_of_an_empty_trace() -> None:
    assert embedded(trace_html([("none", Trace((1,)))], piece, ""))["traces"][0]["frames"] == []


# terminal


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
    events, empty = replay(made())
    assert terminal.watch(iter(events), empty, piece, ends=(END,), console=console) == made()
    last = console.export_text().rsplit("╭", 1)[-1]
    assert "The cat sat.∎∎" in last and "·" not in last.split("╰")[0]
    assert re.search(r"NFE 4 +tokens 4 +TPF 1\.00 +done", last)


def test_watch_shows_masks_and_candidates_on_the_way() -> None:
    console = screen()
    events, empty = replay(made())
    terminal.watch(iter(events[:1]), empty, piece, ends=(END,), console=console)
    text = console.export_text()
    assert "· · · · · · · · ·" in text, "nine masks before the first pass"
    assert "The. sat· · · · · ·" in text and "block 1  step 1" in text


def test_watch_keeps_the_current_block_in_a_low_terminal() -> None:
    console = screen(width=12, height=7)
    events, empty = replay(made())
    terminal.watch(iter(events[:3]), empty, piece, console=console)
    last = console.export_text().rsplit("╭", 1)[-1]
    assert "<|en" in last and "The" not in last


def test_watch_respects_no_color() -> None:
    out = io.StringIO()
    events, empty = replay(made())
    terminal.watch(iter(events), empty, piece, console=screen(file=out, _environ={"NO_COLOR": "1"}))
    assert "38;2" not in out.getvalue() and "unsure" not in out.getvalue()


@pytest.mark.parametrize("options", [{}, {"decode": lambda ids: f"{len(ids)} tokens"}])
def test_watch_prints_only_the_text_where_nobody_watches(options: dict) -> None:
    out = io.StringIO()
    events, empty = replay(made())
    found = terminal.watch(
        iter(events), empty, piece, console=Console(file=out, width=5, _environ={}), **options
    )
    assert found == made()
    assert out.getvalue() == ("4 tokens\n" if options else "The cat sat.\n")


def test_watch_of_an_infilled_text_marks_the_gaps() -> None:
    console = screen()
    events, empty = replay(infilled())
    terminal.watch(iter(events), empty, piece, ends=(1,), console=console)
    assert f" cat … {EVIL}" in console.export_text()


def test_watch_waits_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(terminal.time, "sleep", slept.append)
    events, empty = replay(made())
    terminal.watch(iter(events), empty, piece, console=screen(), delay=30)
    assert len(slept) == 4 and all(29 < seconds <= 30 for seconds in slept)


def test_table_has_a_row_a_pass() -> None:
    console = Console(record=True, width=100, file=io.StringIO(), _environ={})
    terminal.print_trace(made(), piece, console)
    rows = [line.split() for line in console.export_text().splitlines() if re.match(r" *\d", line)]
    assert [row[:4] for row in rows] == [
        ["1", "1", "1", "1"],
        ["2", "1", "2", "0"],
        ["3", "2", "1", "2"],
        ["4", "2", "2", "0"],
    ]
    assert rows[0][4:] == ["The", ".95", "0.5", "␣sat", ".91", "2.5"]
