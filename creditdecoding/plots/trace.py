"""Traces, their analysis and training logs as PNG. The only file that imports matplotlib, and never
its global state.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.plots.analysis import draw_reliability, draw_steps, reliability_size, steps_size
from creditdecoding.plots.rl import draw_rl
from creditdecoding.plots.search import draw_search
from creditdecoding.plots.sweeps import (
    draw_orthogonality,
    draw_scaling,
    orthogonality_size,
    scaling_size,
)
from creditdecoding.plots.tradeoff import draw_tradeoff, series, windows
from creditdecoding.plots.training import draw_log, scored
from creditdecoding.trace import Trace
from creditdecoding.viewer.colours import CREDIT, LIGHT, LINE, QUIET, TEXT, WRITTEN, Ramp
from creditdecoding.viewer.frames import Cell, Frame, Piece, frames, short_label

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
except ImportError:
    Figure = None  # type: ignore[assignment,misc]

_DPI = 150
_TEXTS_AT_MOST = 64
_LEFT, _RIGHT, _HEAD, _TOP = 0.75, 0.3, 0.48, 0.4
"""Inches beside the panels, above each of them and above all."""


@dataclass(frozen=True)
class _Sheet:
    """What all panels of a figure share: the column of each position, the size of a cell in inches."""

    column: Mapping[int, int]
    cell: tuple[float, float]

    @property
    def width(self) -> float:
        return len(self.column) * self.cell[0]

    @property
    def named(self) -> bool:
        """Whether the tokens' texts fit along the axis."""
        return len(self.column) <= _TEXTS_AT_MOST


@dataclass(frozen=True)
class _Panel:
    """One picture: which number of a cell to draw, in which colours, up to which value."""

    film: Sequence[Frame]
    name: str
    note: str
    field: str = "confidence"
    ramp: Ramp = LIGHT
    top: float = 1.0

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.film[-1].cells


def trace_png(trace: Trace, piece: Piece, path: Path, title: str = "") -> None:
    """Draw pass x position: confidence, and credit below where the decoder keeps one. Raises
    `OptionError`, `MissingExtraError`.
    """
    panels = [_panel_of(trace, piece, title or "confidence")]
    film = panels[0].film
    credits = [cell.credit for frame in film for cell in frame.cells if cell.credit is not None]
    if credits:
        panels.append(
            _Panel(
                film,
                "credit",
                "what this and earlier passes say for each candidate",
                "credit",
                CREDIT,
                max(*credits, 1.0),
            )
        )
    _draw(panels, path)


def compare_png(named: Sequence[tuple[str, Trace]], piece: Piece, path: Path) -> None:
    """Draw decoders of one prompt below each other, on one scale of passes and positions; one alone
    like `trace_png`.
    """
    if len(named) == 1:
        trace_png(named[0][1], piece, path, named[0][0])
    else:
        _draw([_panel_of(trace, piece, name) for name, trace in named], path)


def loss_curve(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a training log: losses beside the scores of its evaluations. Raises `OptionError`,
    `MissingExtraError`.
    """
    if not records:
        raise OptionError("the training log is empty", hint="Train at least one step first.")
    figure = _figure(11 if scored(records) else 7, 4.2)
    draw_log(figure, records)
    _save(figure, path)


def steps_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw an analysis: when tokens were candidates, when they were committed. Raises
    `MissingExtraError`.
    """
    figure = _figure(*steps_size(report))
    draw_steps(figure, report)
    _save(figure, path)


def reliability_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw an analysis: reliability diagrams of the model. Raises `OptionError`,
    `MissingExtraError`.
    """
    calibration = report["calibration"]
    if calibration is None:
        raise OptionError(
            "there is no reliability without standard decoding",
            hint="Add traces of --decoder fixed.",
        )
    figure = _figure(*reliability_size(calibration))
    draw_reliability(figure, calibration)
    _save(figure, path)


def tradeoff_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw the curves of a comparison, score over passes. Raises `MissingExtraError`."""
    figure = _figure(13.5 if len(windows(report, series(report))) > 1 else 8.5, 5)
    draw_tradeoff(figure, report)
    _save(figure, path)


def orthogonality_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw passes and speed of every decoder under every setting. Raises `MissingExtraError`."""
    figure = _figure(*orthogonality_size(report))
    draw_orthogonality(figure, report)
    _save(figure, path)


def scaling_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw passes per answer token and score over lengths. Raises `MissingExtraError`."""
    figure = _figure(*scaling_size(report))
    draw_scaling(figure, report)
    _save(figure, path)


def search_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw a comparison of searches, accuracy against compute. Raises `MissingExtraError`."""
    figure = _figure(14.5, 5)
    draw_search(figure, report)
    _save(figure, path)


def rl_png(report: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy of policy-gradient runs over samples and over sequence-forwards. Raises
    `MissingExtraError`.
    """
    figure = _figure(11, 4.4)
    draw_rl(figure, report)
    _save(figure, path)


def _panel_of(trace: Trace, piece: Piece, name: str) -> _Panel:
    film = frames(trace, piece)
    if not film:
        raise OptionError("the trace has no forward pass to draw", hint="Decode something first.")
    last = film[-1]
    return _Panel(
        film,
        f"{name}  ·  NFE {last.nfe}",
        f"{last.written} tokens  ·  {last.tpf:.2f} tokens a pass",
    )


def _draw(panels: Sequence[_Panel], path: Path) -> None:
    """Lay the panels out below each other, the legend on top, and save."""
    places = sorted({cell.position for panel in panels for cell in panel.cells})
    cell = (
        min(0.45, max(0.02, 10.4 / max(len(places), 16))),
        min(0.2, 5.8 / sum(len(panel.film) for panel in panels)),
    )
    sheet = _Sheet({position: column for column, position in enumerate(places)}, cell)
    feet = [
        0.22 + 0.058 * max(len(_label(cell)) for cell in panel.cells) if sheet.named else 0.5
        for panel in panels
    ]
    height = _TOP + sum(
        len(panel.film) * cell[1] + _HEAD + foot for panel, foot in zip(panels, feet)
    )
    figure = _figure(max(8.6, _LEFT + sheet.width + _RIGHT), height)
    _legend(figure)
    edge = height - _TOP
    for panel, foot in zip(panels, feet):
        edge -= _HEAD + len(panel.film) * cell[1]
        _panel(figure, panel, sheet, edge)
        edge -= foot
    _save(figure, path)


def _label(cell: Cell) -> str:
    return "∎" if cell.tail else short_label(cell.text) if cell.token is not None else "·"


def _panel(figure: Any, panel: _Panel, sheet: _Sheet, bottom: float) -> None:
    """Draw one panel with its lower edge `bottom` inches above that of the figure."""
    (wide, high), rows, columns = figure.get_size_inches(), len(panel.film), len(sheet.column)
    tall = rows * sheet.cell[1]
    axes = figure.add_axes((_LEFT / wide, bottom / high, sheet.width / wide, tall / high))
    place = {
        "aspect": "auto",
        "interpolation": "nearest",
        "extent": (-0.5, columns - 0.5, rows + 0.5, 0.5),
    }
    axes.imshow(_matrix(panel, sheet, asked=False), cmap=_colours((WRITTEN, WRITTEN)), **place)
    axes.imshow(
        _matrix(panel, sheet, asked=True),
        cmap=_colours(panel.ramp),
        vmin=0.0,
        vmax=panel.top,
        **place,
    )
    point = 72 * min(sheet.cell)
    lines = [
        [(x + 0.5, 0.5), (x + 0.5, rows + 0.5)] for x in range(columns) if 72 * sheet.cell[0] > 4
    ]
    lines += [
        [(-0.5, y + 0.5), (columns - 0.5, y + 0.5)] for y in range(rows) if 72 * sheet.cell[1] > 4
    ]
    axes.add_collection(
        LineCollection(lines, colors="white", linewidths=min(1.2, 0.1 * point + 0.2))
    )
    marks = [
        Rectangle((sheet.column[cell.position] - 0.5, frame.nfe - 0.5), 1, 1)
        for frame in panel.film
        for cell in frame.committed
    ]
    axes.add_collection(
        PatchCollection(
            marks,
            facecolor="none",
            edgecolor=TEXT,
            linewidth=min(1.1, 0.2 * point),
            joinstyle="miter",
            zorder=3,
            clip_on=False,
        )
    )
    _axes(axes, panel, sheet)
    line, right = (bottom + tall + 0.3) / high, 1 - _RIGHT / wide
    figure.text(
        _LEFT / wide,
        line,
        panel.name,
        fontsize=13,
        weight="bold",
        color=TEXT,
        va="center",
        parse_math=False,
    )
    if panel.field == "credit":
        _bar(figure, panel, right, line)
        right -= 2.5 / wide
    figure.text(right, line, panel.note, fontsize=10, color=QUIET, ha="right", va="center")


def _matrix(panel: _Panel, sheet: _Sheet, asked: bool) -> list[list[float]]:
    """Rows of passes: the panel's number where the model was asked, or (not `asked`) 1 where a
    token stood already; else nan.
    """
    grid = [[math.nan] * len(sheet.column) for _ in panel.film]
    for row, frame in zip(grid, panel.film):
        for cell in frame.cells:
            value = getattr(cell, panel.field)
            if not asked and cell.state == "before":
                row[sheet.column[cell.position]] = 1.0
            elif asked and cell.state != "before" and value is not None:
                row[sheet.column[cell.position]] = value
    return grid


def _axes(axes: Any, panel: _Panel, sheet: _Sheet) -> None:
    """Ticks, token texts and block boundaries."""
    rows, columns = len(panel.film), len(sheet.column)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows + 0.5, 0.5))
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=QUIET, labelsize=8, length=0, pad=3)
    every = next(
        n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if n * sheet.cell[1] >= 0.17
    )
    axes.set_yticks([1, *range(every, rows + 1, every)] if every > 2 else range(1, rows + 1, every))
    axes.set_ylabel("pass", color=QUIET, fontsize=9)
    axes.yaxis.set_label_coords(-0.4 / sheet.width, 0.5)
    if sheet.named:
        axes.set_xticks([sheet.column[cell.position] for cell in panel.cells])
        for tick, cell in zip(
            axes.set_xticklabels([_label(cell) for cell in panel.cells], fontsize=7.5), panel.cells
        ):
            tick.set(
                parse_math=False,
                color=QUIET if cell.tail else TEXT,
                rotation=0 if len(_label(cell)) * 0.08 <= sheet.cell[0] else 90,
            )
    else:
        axes.set_xlabel("position in the answer", color=QUIET, fontsize=9)
    blocks: dict[int, list[int]] = {}
    for cell in panel.cells:
        if cell.block is not None:
            blocks.setdefault(cell.block, []).append(sheet.column[cell.position])
    for block, inside in blocks.items():
        if inside[0]:
            axes.axvline(inside[0] - 0.5, color=LINE, linewidth=1, linestyle=(0, (4, 3)), zorder=4)
        if len(blocks) > 1 and len(inside) * sheet.cell[0] > 0.5:
            middle = ((inside[0] + inside[-1]) / 2, 0.5)
            axes.annotate(
                f"block {block + 1}",
                middle,
                (0, 4),
                textcoords="offset points",
                fontsize=8,
                color=QUIET,
                ha="center",
            )


def _legend(figure: Any) -> None:
    """What outlines and greys mean, and the scale of confidence, on the figure's first line."""
    wide, high = figure.get_size_inches()
    handles = [
        Patch(facecolor=LIGHT[-1], edgecolor=TEXT, linewidth=1.1, label="written in this pass"),
        Patch(facecolor=LIGHT[1], label="candidate, still masked"),
        Patch(facecolor=WRITTEN, label="written before"),
    ]
    place = {
        "loc": "center left",
        "bbox_to_anchor": (_LEFT / wide, 1 - 0.25 / high),
        "borderaxespad": 0,
        "borderpad": 0,
    }
    figure.legend(
        handles=handles,
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=QUIET,
        handlelength=1,
        handleheight=1,
        columnspacing=1.4,
        **place,
    )
    _bar(figure, _Panel((), "", ""), 1 - _RIGHT / wide, 1 - 0.25 / high)


def _bar(figure: Any, panel: _Panel, right: float, middle: float) -> None:
    """A panel's colour scale on one line that ends at `right`; both in parts of the figure."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((right - 1.5 / wide, middle - 0.05 / high, 1.2 / wide, 0.1 / high))
    axes.imshow([[step / 255 for step in range(256)]], cmap=_colours(panel.ramp), aspect="auto")
    axes.set_axis_off()
    figure.text(
        right - 1.56 / wide,
        middle,
        f"{panel.field}  0",
        fontsize=9,
        color=QUIET,
        ha="right",
        va="center",
    )
    figure.text(
        right - 0.24 / wide, middle, f"{panel.top:.2g}", fontsize=9, color=QUIET, va="center"
    )


def _colours(ramp: Ramp) -> Any:
    return LinearSegmentedColormap.from_list("credit", list(ramp))


def _figure(width: float, height: float) -> Any:
    """A figure of its own, bound to the Agg canvas. Raises `MissingExtraError`."""
    if Figure is None:
        raise MissingExtraError("matplotlib", "plot")
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    """Write a picture that is whole before it is written. Raises `OptionError`."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(drawn, format="png", dpi=_DPI)
    try:
        path.write_bytes(drawn.getvalue())
    except OSError as error:
        raise OptionError(
            f"cannot write ({error.strerror})", given=str(path), hint="Check the folder."
        ) from error
