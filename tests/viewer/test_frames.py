"""Frames against the trace that they are made of."""

import pytest

from creditdecoding.trace import Trace
from creditdecoding.viewer import colours
from creditdecoding.viewer.frames import Cell, Frame, escape_controls, frames, short_label
from tests.helpers.traces import infilled_trace, piece, two_block_trace


def states(frame: Frame) -> str:
    return "".join(cell.state[0] for cell in frame.cells)


def test_frames_follow_the_trace() -> None:
    trace = two_block_trace()
    film = frames(trace, piece)
    assert len(film) == trace.nfe == film[-1].nfe
    assert [states(frame) for frame in film] == ["nmnmmm", "bnbmmm", "bbbmnm", "bbbnbn"]
    assert [frame.masks_left for frame in film] == [1, 0, 2, 0]
    assert [cell.position for cell in film[0].cells] == list(range(6))
    assert [cell.commit for cell in film[-1].cells] == [1, 2, 1, 4, 3, 4]
    assert [cell.tail for cell in film[-1].cells] == [False] * 4 + [True] * 2
    assert (film[-1].written, film[-1].tpf) == (len(trace.tokens), trace.tpf)
    assert {cell.position + 3: cell.token for cell in film[-1].cells} == trace.written
    candidate, undecoded = film[0].cells[1], film[0].cells[3]
    assert (candidate.text, candidate.confidence, candidate.credit) == (".", 0.3, 1.5)
    assert undecoded == Cell(3), "a block that was not decoded yet has no candidates"
    assert film[-1].cells[0] == film[1].cells[0], "a written token keeps what it was written with"


def test_frames_of_an_infilled_text_have_absolute_positions() -> None:
    film = frames(infilled_trace(), piece)
    assert [cell.position for cell in film[0].cells] == [1, 4]
    assert [states(frame) for frame in film] == ["mn", "nb"]
    assert film[-1].written == 2 and not any(cell.tail for cell in film[-1].cells)


def test_frames_of_traces_without_credit_without_end_and_without_steps() -> None:
    without_credit = frames(two_block_trace(None), piece)
    assert all(cell.credit is None for frame in without_credit for cell in frame.cells)
    running = Trace((9,), two_block_trace(prompt=(9,)).steps[:2])
    assert [states(frame) for frame in frames(running, piece)] == ["nmn", "bnb"]
    assert frames(Trace((9,)), piece) == []


def test_labels_show_what_cannot_be_seen() -> None:
    labels = [short_label(text) for text in (" cat", " ", "\n", "a" * 20)]
    assert labels == ["cat", "␣", "↵", "a" * 11 + "…"]
    assert escape_controls("a\x1b[2J\n\tb") == "a␛[2J\n\tb"


@pytest.mark.parametrize("ramp", [colours.LIGHT, colours.DARK, colours.INK, colours.CREDIT])
def test_ramps_meet_their_ends(ramp: colours.Ramp) -> None:
    assert [colours.colour_at(ramp, value) for value in (-1, 0)] == [ramp[0]] * 2
    assert [colours.colour_at(ramp, value) for value in (1, 2)] == [ramp[-1]] * 2
