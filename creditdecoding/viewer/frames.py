"""A trace as one still picture a forward pass: pure data that the terminal, the plots and the HTML
page all render.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal

from creditdecoding.trace import StepEvent, Trace

Piece = Callable[[int], str]
"""Token id -> what a person should see (`Tokenizer.piece`)."""

CellState = Literal["masked", "now", "before"]

_PICTURES = (
    {code: 0x2400 + code for code in range(0x20)}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)
_LABELS = _PICTURES | {ord("\n"): "↵", ord("\t"): "⇥"}
_SAFE = {code: sign for code, sign in _PICTURES.items() if chr(code) not in "\n\t"}


@dataclass(frozen=True)
class Cell:
    """One position of the answer after a pass.

    `position` counts from the start of the answer (of the row where a given text is filled in).
    `token`, `text`, `confidence`
    and `credit` are those of the candidate while masked (None and "" where the model was not asked
    yet, or a token was taken back
    just now), then of the token as it was written; `commit` is the pass, counted from 1, that wrote
    it. `tail` marks an end token
    and what lies behind it.
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
    """The whole answer after pass number `nfe` of its request (0: before the first). `block` and
    `step` count from 0 as in the trace.

    `revoked` are the cells that this very pass took back, as they stood before it.
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
        """Answer tokens written so far, the tail not counted."""
        return sum(cell.state != "masked" and not cell.tail for cell in self.cells)

    @property
    def tpf(self) -> float:
        """Answer tokens written a forward pass."""
        return self.written / self.nfe if self.nfe else 0.0

    @property
    def committed(self) -> tuple[Cell, ...]:
        """The cells this very pass wrote."""
        return tuple(cell for cell in self.cells if cell.state == "now")


def masked_positions(trace: Trace) -> list[int]:
    """Every position of the row that the trace ever saw masked, in order."""
    return sorted({position for step in trace.steps for position in step.positions})


def answer_end(trace: Trace, answer: int) -> int | None:
    """Where the answer ended, counted from its start; None while it runs, and where a given text is
    filled in.
    """
    return len(trace.tokens) if trace.finish and answer else None


def initial_frame(known: Iterable[int], answer: int = 0, end: int | None = None) -> Frame:
    """All positions masked, before the first pass; positions of the row from `answer` on, those
    from `end` (of the answer) on are tail.
    """
    cells = (
        Cell(position - answer, tail=end is not None and position - answer >= end)
        for position in known
        if position >= answer
    )
    return Frame(0, 0, 0, 0.0, tuple(cells))


def next_frame(frame: Frame, event: StepEvent, piece: Piece, answer: int = 0) -> Frame:
    """The next frame: `event` laid over `frame`; what the event does not mention stays as it is,
    what the frame lacks is added.
    """
    rows = zip(
        event.positions,
        event.tokens,
        event.confidence,
        event.credit or [None] * len(event.positions),
        event.committed,
    )
    seen = {
        position - answer: (token, confidence, credit, done)
        for position, token, confidence, credit, done in rows
        if position >= answer
    }
    back = {position - answer for position in event.revoked}
    nfe, cells = frame.nfe + 1, []
    unknown = seen.keys() - {cell.position for cell in frame.cells}
    for cell in (
        sorted((*frame.cells, *map(Cell, unknown)), key=attrgetter("position"))
        if unknown
        else frame.cells
    ):
        if cell.position in back:
            cell = Cell(cell.position, block=cell.block, tail=cell.tail)
        elif cell.position in seen:
            token, confidence, credit, done = seen[cell.position]
            state: CellState = "now" if done else "masked"
            cell = Cell(
                cell.position,
                state,
                token,
                piece(token),
                confidence,
                credit,
                nfe if done else None,
                event.block,
                cell.tail,
            )
        elif cell.state == "now":
            cell = replace(cell, state="before")
        cells.append(cell)
    gone = tuple(cell for cell in frame.cells if cell.position in back)
    return Frame(nfe, event.block, event.step, event.seconds, tuple(cells), gone)


def frames(trace: Trace, piece: Piece, answer: int | None = None) -> list[Frame]:
    """One frame a forward pass. `answer` is where the answer starts in the row; by default behind
    the trace's prompt.
    """
    start = len(trace.prompt) if answer is None else answer
    frame = initial_frame(masked_positions(trace), start, answer_end(trace, start))
    return [frame := next_frame(frame, step, piece, start) for step in trace.steps]


def frame_deltas(film: Sequence[Frame]) -> list[dict[str, Any]]:
    """The frames as JSON-ready data: a pass a mapping, `cells` only those that differ from the
    frame before, each with its `index`.
    """
    found: list[dict[str, Any]] = []
    before: tuple[Cell | None, ...] = (None,) * (len(film[0].cells) if film else 0)
    for frame in film:
        cells = [
            _cell(index, cell)
            for index, (cell, old) in enumerate(zip(frame.cells, before))
            if cell != old
        ]
        numbers = {
            "nfe": frame.nfe,
            "block": frame.block,
            "step": frame.step,
            "written": frame.written,
            "seconds": round(frame.seconds, 4),
        }
        found.append({**numbers, "cells": cells})
        before = frame.cells
    return found


def _cell(index: int, cell: Cell) -> dict[str, Any]:
    """A cell as JSON-ready data: fields that say nothing left out, four digits."""
    values = {
        "text": cell.text,
        "confidence": None if cell.confidence is None else round(cell.confidence, 4),
        "credit": None if cell.credit is None else round(cell.credit, 4),
        "commit": cell.commit,
        "block": cell.block,
    }
    return {
        "index": index,
        "state": cell.state,
        **{name: value for name, value in values.items() if value is not None and value != ""},
    }


def short_label(text: str, most: int = 12) -> str:
    """A token as a short label on one line: blanks made visible, at most `most` characters."""
    shown = one_line(text.strip(" ")) or "␣"
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def one_line(text: str) -> str:
    """A text on one line: newlines, tabs and control characters as signs."""
    return text.translate(_LABELS)


def escape_controls(text: str) -> str:
    """A text with its control characters, but newline and tab, made visible: what a model writes
    must not steer a terminal.
    """
    return text.translate(_SAFE)
