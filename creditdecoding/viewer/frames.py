"""A trace as one frame for each forward pass: data that the terminal, figures and pages render."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal

from creditdecoding.trace import StepEvent, Trace

Piece = Callable[[int], str]
"""Token id -> the text that people see (`Tokenizer.piece`)."""

CellState = Literal["masked", "now", "before"]

_CONTROL_PICTURES = (
    {code: 0x2400 + code for code in range(0x20)}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)
_ONE_LINE = _CONTROL_PICTURES | {ord("\n"): "↵", ord("\t"): "⇥"}
_NO_CONTROLS = {
    code: picture for code, picture in _CONTROL_PICTURES.items() if chr(code) not in "\n\t"
}


@dataclass(frozen=True)
class Cell:
    """One position of the answer after a pass.

    `position` counts from the start of the answer, or of the whole text for infilling. While
    masked, `token`, `text`, `confidence` and `credit` are the candidate's (None and "" if there is
    none); afterwards they are those of the written token. `commit` is the pass, counted from 1,
    that wrote it. `tail` marks an end token and everything after it.
    """

    position: int
    state: CellState = "masked"
    token: int | None = None
    text: str = ""
    confidence: float | None = None
    credit: float | None = None
    commit: int | None = None
    block: int | None = None
    tail: bool = False


@dataclass(frozen=True)
class Frame:
    """The whole answer after pass number `nfe` (0: before the first).

    `block` and `step` count from 0 as in the trace. `revoked` are the cells that this pass masked
    again, as they were before.
    """

    nfe: int
    block: int
    step: int
    seconds: float
    cells: tuple[Cell, ...]
    revoked: tuple[Cell, ...] = ()

    @property
    def masks_left(self) -> int:
        """Masks left in the current block."""
        return sum(cell.state == "masked" and cell.block == self.block for cell in self.cells)

    @property
    def written(self) -> int:
        """Answer tokens written so far, without the tail."""
        return sum(cell.state != "masked" and not cell.tail for cell in self.cells)

    @property
    def tpf(self) -> float:
        """Answer tokens written per forward pass."""
        return self.written / self.nfe if self.nfe else 0.0

    @property
    def committed(self) -> tuple[Cell, ...]:
        """The cells that this pass wrote."""
        return tuple(cell for cell in self.cells if cell.state == "now")


def masked_positions(trace: Trace) -> list[int]:
    """Every position that was masked at some pass, in order."""
    return sorted({position for step in trace.steps for position in step.positions})


def answer_end(trace: Trace, answer_start: int) -> int | None:
    """Length of the answer; None while it is decoded, and for infilling (`answer_start` 0)."""
    return len(trace.tokens) if trace.finish and answer_start else None


def initial_frame(positions: Iterable[int], answer_start: int = 0, end: int | None = None) -> Frame:
    """All positions from `answer_start` on as masks; those from `end` of the answer on are tail."""
    cells = (
        Cell(position - answer_start, tail=end is not None and position - answer_start >= end)
        for position in positions
        if position >= answer_start
    )
    return Frame(0, 0, 0, 0.0, tuple(cells))


def next_frame(frame: Frame, event: StepEvent, piece: Piece, answer_start: int = 0) -> Frame:
    """The frame after `event`. Cells that it does not mention stay; missing ones are added."""
    nfe = frame.nfe + 1
    predicted = _predicted_cells(event, nfe, piece, answer_start)
    revoked = {position - answer_start for position in event.revoked}
    cells = {cell.position: cell for cell in frame.cells}
    for position, cell in cells.items():
        if cell.state == "now":
            cells[position] = replace(cell, state="before")
    for position in revoked & cells.keys():
        before = cells[position]
        cells[position] = Cell(position, block=before.block, tail=before.tail)
    for position, cell in predicted.items():
        if position not in revoked:
            tail = position in cells and cells[position].tail
            cells[position] = replace(cell, tail=tail)
    return Frame(
        nfe,
        event.block,
        event.step,
        event.seconds,
        tuple(sorted(cells.values(), key=attrgetter("position"))),
        tuple(cell for cell in frame.cells if cell.position in revoked),
    )


def _predicted_cells(
    event: StepEvent, nfe: int, piece: Piece, answer_start: int
) -> dict[int, Cell]:
    """The cells of an event's predictions, by position."""
    credits = event.credit or [None] * len(event.positions)
    rows = zip(event.positions, event.tokens, event.confidence, credits, event.committed)
    return {
        position - answer_start: Cell(
            position=position - answer_start,
            state="now" if committed else "masked",
            token=token,
            text=piece(token),
            confidence=confidence,
            credit=credit,
            commit=nfe if committed else None,
            block=event.block,
        )
        for position, token, confidence, credit, committed in rows
        if position >= answer_start
    }


def frames(trace: Trace, piece: Piece, answer_start: int | None = None) -> list[Frame]:
    """One frame for each forward pass. By default the answer starts after the trace's prompt."""
    start = len(trace.prompt) if answer_start is None else answer_start
    frame = initial_frame(masked_positions(trace), start, answer_end(trace, start))
    return [frame := next_frame(frame, step, piece, start) for step in trace.steps]


def frame_deltas(film: Sequence[Frame]) -> list[dict[str, Any]]:
    """Frames as JSON-ready data: of each frame the cells that differ from the frame before, each
    with its `index`.
    """
    deltas: list[dict[str, Any]] = []
    before: tuple[Cell | None, ...] = (None,) * (len(film[0].cells) if film else 0)
    for frame in film:
        pairs = enumerate(zip(frame.cells, before))
        delta = {
            "nfe": frame.nfe,
            "block": frame.block,
            "step": frame.step,
            "written": frame.written,
            "seconds": round(frame.seconds, 4),
            "cells": [_cell_data(index, cell) for index, (cell, old) in pairs if cell != old],
        }
        deltas.append(delta)
        before = frame.cells
    return deltas


def _cell_data(index: int, cell: Cell) -> dict[str, Any]:
    """A cell as JSON-ready data, without fields that have no value; numbers have four digits."""
    values = {
        "text": cell.text or None,
        "confidence": None if cell.confidence is None else round(cell.confidence, 4),
        "credit": None if cell.credit is None else round(cell.credit, 4),
        "commit": cell.commit,
        "block": cell.block,
    }
    known = {name: value for name, value in values.items() if value is not None}
    return {"index": index, "state": cell.state, **known}


def short_label(text: str, max_length: int = 12) -> str:
    """A token as a label on one line of at most `max_length` characters."""
    label = one_line(text.strip(" ")) or "␣"
    return label if len(label) <= max_length else label[: max_length - 1] + "…"


def one_line(text: str) -> str:
    """A text with newlines, tabs and control characters as signs."""
    return text.translate(_ONE_LINE)


def escape_controls(text: str) -> str:
    """A text with control characters as signs, except newline and tab: a model must not control
    the terminal.
    """
    return text.translate(_NO_CONTROLS)
