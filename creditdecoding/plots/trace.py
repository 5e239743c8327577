"""Traces as pictures: forward passes downwards, positions of the answer across."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.plots.base import (
    DASHED,
    colormap,
    legend,
    new_figure,
    outline_cells,
    save,
    swatch,
)
from creditdecoding.trace import Trace
from creditdecoding.viewer.colours import CREDIT, LIGHT, LINE, QUIET, TEXT, WRITTEN, Ramp
from creditdecoding.viewer.frames import Cell, Frame, Piece, frames, short_label
from creditdecoding.viewer.labels import spec_label
from creditdecoding.wording import count

_MOST_TEXTS = 64
"""Positions up to which the texts of the tokens are written along the axis."""
_LEFT = 0.75
_RIGHT = 0.3
"""Inches left and right of the panels."""
_HEAD = 0.48
_TOP = 0.4
"""Inches above each panel, and above all."""
_PASS_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Passes from one tick of the axis to the next: the first that leaves room for the numbers."""


@dataclass(frozen=True)
class Panel:
    """One picture: the frames of a trace and which number of their cells to draw, up to `top`."""

    frames: Sequence[Frame]
    title: str
    note: str
    field: str = "confidence"
    ramp: Ramp = LIGHT
    top: float = 1.0

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells after the last pass."""
        return self.frames[-1].cells

    def value(self, cell: Cell) -> float | None:
        """The number of a cell that this panel draws."""
        return cell.credit if self.field == "credit" else cell.confidence


@dataclass(frozen=True)
class Sheet:
    """What the panels of a figure share: the column of each position, the inches of a cell."""

    columns: Mapping[int, int]
    cell_width: float
    cell_height: float

    @property
    def width(self) -> float:
        """Inches of a panel."""
        return len(self.columns) * self.cell_width

    @property
    def cell_points(self) -> float:
        """The shorter side of a cell in points."""
        return 72 * min(self.cell_width, self.cell_height)

    @property
    def has_texts(self) -> bool:
        """Whether the texts of the tokens fit along the axis."""
        return len(self.columns) <= _MOST_TEXTS

    def foot(self, panel: Panel) -> float:
        """Inches below a panel for its axis."""
        if not self.has_texts:
            return 0.5
        longest = max(len(_cell_text(cell)) for cell in panel.cells)
        return 0.22 + 0.058 * longest


def trace_png(trace: Trace, piece: Piece, path: Path, title: str = "") -> None:
    """Draw the confidence of a trace, and below it the credit if the decoder has any.

    `piece` gives the text of a token id. Raises `OptionError`, `MissingExtraError`.
    """
    confidence = _confidence_panel(trace, piece, title or "confidence")
    credit = _credit_panel(confidence.frames)
    panels = [confidence] if credit is None else [confidence, credit]
    _draw(panels, path)


def traces_png(named: Sequence[tuple[str, Trace]], piece: Piece, path: Path) -> None:
    """Draw decoders of one prompt below each other on one scale; one alone as `trace_png`."""
    if len(named) == 1:
        name, trace = named[0]
        trace_png(trace, piece, path, spec_label(name))
    else:
        panels = [_confidence_panel(trace, piece, spec_label(name)) for name, trace in named]
        _draw(panels, path)


def _confidence_panel(trace: Trace, piece: Piece, name: str) -> Panel:
    """The confidence of each candidate. Raises `OptionError` for a trace without passes."""
    film = frames(trace, piece)
    if not film:
        raise OptionError("the trace has no forward pass to draw", hint="Decode something first.")
    last = film[-1]
    return Panel(
        frames=film,
        title=f"{name}  ·  {count(last.nfe, 'forward pass', 'forward passes')}",
        note=f"{count(last.written, 'token')}  ·  {last.tpf:.2f} tokens a pass",
    )


def _credit_panel(film: Sequence[Frame]) -> Panel | None:
    """The credit of each candidate, or nothing if no pass has any."""
    credits = []
    for frame in film:
        credits += [cell.credit for cell in frame.cells if cell.credit is not None]
    if not credits:
        return None
    return Panel(
        frames=film,
        title="credit",
        note="what this and earlier passes say for each candidate",
        field="credit",
        ramp=CREDIT,
        top=max(*credits, 1.0),
    )


def _draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw the panels below each other, with the legend on top."""
    passes = sum(len(panel.frames) for panel in panels)
    sheet = _sheet(panels, passes)
    heads = len(panels) * _HEAD
    feet = sum(sheet.foot(panel) for panel in panels)
    width = max(8.6, _LEFT + sheet.width + _RIGHT)
    height = _TOP + passes * sheet.cell_height + heads + feet
    figure = new_figure(width, height)
    _draw_legend(figure)
    bottom = height - _TOP
    for panel in panels:
        bottom -= _HEAD + len(panel.frames) * sheet.cell_height
        _draw_panel(figure, panel, sheet, bottom)
        bottom -= sheet.foot(panel)
    save(figure, path)


def _sheet(panels: Sequence[Panel], passes: int) -> Sheet:
    """Columns for the positions of all panels, and cells that make the figure about a page."""
    positions: set[int] = set()
    for panel in panels:
        positions.update(cell.position for cell in panel.cells)
    fitting_width = 10.4 / max(len(positions), 16)
    return Sheet(
        columns={position: column for column, position in enumerate(sorted(positions))},
        cell_width=min(0.45, max(0.02, fitting_width)),
        cell_height=min(0.2, 5.8 / passes),
    )


def _cell_text(cell: Cell) -> str:
    """What the token axis shows for a cell."""
    if cell.tail:
        return "∎"
    if cell.token is None:
        return "·"
    return short_label(cell.text)


def _draw_panel(figure: Any, panel: Panel, sheet: Sheet, bottom: float) -> None:
    """Draw one panel with its lower edge `bottom` inches above that of the figure."""
    width, height = figure.get_size_inches()
    panel_height = len(panel.frames) * sheet.cell_height
    box = (
        _LEFT / width,
        bottom / height,
        sheet.width / width,
        panel_height / height,
    )
    axes = figure.add_axes(box)
    _draw_cells(axes, panel, sheet)
    _draw_pass_axis(axes, len(panel.frames), sheet)
    _draw_token_axis(axes, panel, sheet)
    _draw_blocks(axes, panel, sheet)
    line = (bottom + panel_height + 0.3) / height
    _draw_heading(figure, panel, line)


def _draw_heading(figure: Any, panel: Panel, line: float) -> None:
    """Write title and note of a panel on the line `line`, a share of the height.

    A panel of credit has a colour scale of its own at the right end.
    """
    width, _ = figure.get_size_inches()
    figure.text(
        _LEFT / width,
        line,
        panel.title,
        va="center",
        fontsize=13,
        weight="bold",
        color=TEXT,
        parse_math=False,
    )
    right = 1 - _RIGHT / width
    if panel.field == "credit":
        _draw_scale(figure, panel.field, panel.ramp, panel.top, line)
        right -= 2.5 / width
    figure.text(
        right,
        line,
        panel.note,
        fontsize=10,
        color=QUIET,
        ha="right",
        va="center",
    )


def _draw_cells(axes: Any, panel: Panel, sheet: Sheet) -> None:
    """Draw the cells in colour, white lines between them, outlines around what each pass wrote."""
    rows = len(panel.frames)
    columns = len(sheet.columns)
    extent = (-0.5, columns - 0.5, rows + 0.5, 0.5)
    written, predicted = _matrices(panel, sheet)
    axes.imshow(
        written,
        extent=extent,
        cmap=colormap((WRITTEN, WRITTEN)),
        aspect="auto",
        interpolation="nearest",
    )
    axes.imshow(
        predicted,
        extent=extent,
        cmap=colormap(panel.ramp),
        vmin=0.0,
        vmax=panel.top,
        aspect="auto",
        interpolation="nearest",
    )
    _draw_grid(axes, rows, sheet)
    corners = []
    for frame in panel.frames:
        for cell in frame.committed:
            column = sheet.columns[cell.position]
            corners.append((column - 0.5, frame.nfe - 0.5))
    line_width = min(1.1, 0.2 * sheet.cell_points)
    outline_cells(axes, corners, line_width)


def _draw_grid(axes: Any, rows: int, sheet: Sheet) -> None:
    """Draw white lines between cells that are large enough."""
    columns = len(sheet.columns)
    line_width = min(1.2, 0.1 * sheet.cell_points + 0.2)
    if 72 * sheet.cell_width > 4:
        axes.vlines(
            [column + 0.5 for column in range(columns)],
            0.5,
            rows + 0.5,
            colors="white",
            linewidth=line_width,
        )
    if 72 * sheet.cell_height > 4:
        axes.hlines(
            [row + 0.5 for row in range(rows)],
            -0.5,
            columns - 0.5,
            colors="white",
            linewidth=line_width,
        )


def _matrices(panel: Panel, sheet: Sheet) -> tuple[list[list[float]], list[list[float]]]:
    """Two pictures of passes by positions, nan where there is nothing to draw.

    The first is 1 where a token was written before; the second has the panel's number where the
    model predicted one.
    """
    written = [[math.nan] * len(sheet.columns) for _ in panel.frames]
    predicted = [[math.nan] * len(sheet.columns) for _ in panel.frames]
    for row, frame in enumerate(panel.frames):
        for cell in frame.cells:
            value = panel.value(cell)
            column = sheet.columns[cell.position]
            if cell.state == "before":
                written[row][column] = 1.0
            elif value is not None:
                predicted[row][column] = value
    return written, predicted


def _draw_pass_axis(axes: Any, passes: int, sheet: Sheet) -> None:
    """Number the passes downwards, where there is room for a number."""
    columns = len(sheet.columns)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(passes + 0.5, 0.5))
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=QUIET, labelsize=8, length=0, pad=3)
    fitting = (step for step in _PASS_STEPS if step * sheet.cell_height >= 0.17)
    step = next(fitting, 10**9)
    ticks = list(range(1, passes + 1, step))
    if step > 2:
        ticks = [1, *range(step, passes + 1, step)]
    axes.set_yticks(ticks)
    axes.set_ylabel("pass", color=QUIET, fontsize=9)
    axes.yaxis.set_label_coords(-0.4 / sheet.width, 0.5)


def _draw_token_axis(axes: Any, panel: Panel, sheet: Sheet) -> None:
    """Write the tokens of the answer below the panel, upright where they are too long."""
    if not sheet.has_texts:
        axes.set_xlabel("position in the answer", color=QUIET, fontsize=9)
        return
    texts = [_cell_text(cell) for cell in panel.cells]
    columns = [sheet.columns[cell.position] for cell in panel.cells]
    axes.set_xticks(columns)
    labels = axes.set_xticklabels(texts, fontsize=7.5)
    for label, cell, text in zip(labels, panel.cells, texts):
        fits = len(text) * 0.08 <= sheet.cell_width
        label.set(
            parse_math=False,
            color=QUIET if cell.tail else TEXT,
            rotation=0 if fits else 90,
        )


def _draw_blocks(axes: Any, panel: Panel, sheet: Sheet) -> None:
    """Draw a dashed line before each block, and its number above where there is room."""
    blocks: dict[int, list[int]] = {}
    for cell in panel.cells:
        if cell.block is not None:
            column = sheet.columns[cell.position]
            blocks.setdefault(cell.block, []).append(column)
    for block, columns in blocks.items():
        first = columns[0]
        middle = (first + columns[-1]) / 2
        if first:
            axes.axvline(
                first - 0.5,
                color=LINE,
                linewidth=1,
                linestyle=DASHED,
                zorder=4,
            )
        if len(blocks) > 1 and len(columns) * sheet.cell_width > 0.5:
            axes.annotate(
                f"block {block + 1}",
                xy=(middle, 0.5),
                xytext=(0, 4),
                textcoords="offset points",
                fontsize=8,
                color=QUIET,
                ha="center",
            )


def _draw_legend(figure: Any) -> None:
    """Draw what outlines and greys mean, and the scale of confidence, on the first line."""
    width, height = figure.get_size_inches()
    line = 1 - 0.25 / height
    handles = [
        swatch(LIGHT[-1], "written in this pass", TEXT),
        swatch(LIGHT[1], "candidate, still masked"),
        swatch(WRITTEN, "written before"),
    ]
    legend(
        figure,
        handles,
        ncols=3,
        labelcolor=QUIET,
        loc="center left",
        bbox_to_anchor=(_LEFT / width, line),
        borderaxespad=0,
        borderpad=0,
        handlelength=1,
        handleheight=1,
        columnspacing=1.4,
    )
    _draw_scale(figure, "confidence", LIGHT, 1.0, line)


def _draw_scale(figure: Any, name: str, ramp: Ramp, top: float, middle: float) -> None:
    """Draw a colour scale from 0 to `top` at the right edge, on `middle`, a share of the height."""
    width, height = figure.get_size_inches()
    right = 1 - _RIGHT / width
    box = (
        right - 1.5 / width,
        middle - 0.05 / height,
        1.2 / width,
        0.1 / height,
    )
    axes = figure.add_axes(box)
    levels = [step / 255 for step in range(256)]
    axes.imshow([levels], cmap=colormap(ramp), aspect="auto")
    axes.set_axis_off()
    figure.text(
        right - 1.56 / width,
        middle,
        f"{name}  0",
        ha="right",
        va="center",
        fontsize=9,
        color=QUIET,
    )
    figure.text(
        right - 0.24 / width,
        middle,
        f"{top:.2g}",
        va="center",
        fontsize=9,
        color=QUIET,
    )
