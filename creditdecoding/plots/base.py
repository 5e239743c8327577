"""What every figure shares: the canvas, axes styling, line colours, and saving.

The only module of the package that imports matplotlib, and it never uses pyplot's global state.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from creditdecoding.errors import MissingExtraError, os_errors
from creditdecoding.viewer.colours import (
    EXTRA,
    LINE,
    QUIET,
    REST,
    SERIES,
    TEXT,
    WRITTEN,
    Ramp,
)

try:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
except ImportError:
    Figure = None  # type: ignore[assignment,misc]

DPI = 150
DASHED = (0, (4, 3))
_PALETTE = (SERIES["credit"], SERIES["threshold"], SERIES["thrift"], EXTRA)
"""The four colours of series; standard decoding is dark, all others are grey."""
_NEUTRAL = {
    "fixed": SERIES["standard"],
    "standard": SERIES["standard"],
}
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
)


def new_figure(width: float, height: float) -> Any:
    """A white figure of this size in inches. Raises `MissingExtraError`."""
    if Figure is None:
        raise MissingExtraError("matplotlib", "plot")
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG. Raises `OptionError` if the file cannot be written."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(image, format="png", dpi=DPI)
    with os_errors("cannot write", path, "Check the folder."):
        path.write_bytes(image.getvalue())


def svg(figure: Any) -> str:
    """A figure as an SVG element to embed in a page; a gid set on an artist becomes its id."""
    image = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "creditdecoding",
    }
    with rc_context(settings):
        figure.savefig(image, format="svg", metadata=no_metadata)
    text = image.getvalue()
    start = text.index("<svg")
    return text[start:]


def style(
    axes: Any,
    title: str = "",
    note: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> None:
    """Make edges, ticks and grid quiet; write `title` above left and `note` above right."""
    axes.set_title(title, loc="left", fontsize=11, weight="bold", color=TEXT)
    axes.set_title(note, loc="right", fontsize=9, color=QUIET)
    axes.set_xlabel(xlabel, color=QUIET, fontsize=9)
    axes.set_ylabel(ylabel, color=QUIET, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(which="both", colors=QUIET, labelsize=8, length=0)
    axes.grid(color=WRITTEN, linewidth=1)
    axes.set_axisbelow(True)


def log_axis(axis: Any, low: float, high: float, steps: Sequence[int] = (1, 2, 5)) -> None:
    """Make `axes.xaxis` or `axes.yaxis` logarithmic, with ticks at `steps` times powers of ten."""
    name = axis.axis_name
    scale_and_limits = {
        f"{name}scale": "log",
        f"{name}lim": (low, high),
    }
    axis.axes.set(**scale_and_limits)
    ticks = []
    for exponent in range(-6, 6):
        multiples = [step * 10.0**exponent for step in steps]
        ticks += [multiple for multiple in multiples if low <= multiple <= high]
    labels = [f"{tick:g}" for tick in ticks]
    axis.set_ticks(ticks, labels=labels)
    axis.set_ticks([], minor=True)


def log_around(axis: Any, values: Sequence[float]) -> None:
    """`log_axis` with some room around `values`, and fewer ticks over more than three decades."""
    low = max(1e-6, min(values)) * 0.85
    high = max(values) * 1.18
    steps = (1, 2, 5) if high < 2000 * low else (1,)
    log_axis(axis, low, high, steps)


def line_styles(specs: Sequence[str], only_known: bool = False) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each decoder's or method's line, as arguments of `axes.plot`.

    Known decoders have the same colour in every figure. What is left of the four colours goes to
    the others in their order, unless `only_known`; the rest is grey. A second setting of a decoder
    has its colour and another dash.
    """
    names = list(dict.fromkeys(_family(spec) for spec in specs))
    colours = {name: SERIES.get(name) or _NEUTRAL.get(name) for name in names}
    free = [colour for colour in _PALETTE if colour not in colours.values()]
    for name in names:
        if colours[name] is None and free and not only_known:
            colours[name] = free.pop(0)
    styles = {}
    uses: dict[str, int] = {}
    for spec in specs:
        name = _family(spec)
        turn = uses.get(name, 0)
        uses[name] = turn + 1
        styles[spec] = {
            "color": colours[name] or REST,
            "linestyle": _DASHES[turn % len(_DASHES)],
        }
    return styles


def _family(spec: str) -> str:
    """The decoder or method of a spec, without its settings."""
    return spec.partition(":")[0]


def is_grey(style: Mapping[str, Any]) -> bool:
    """Whether a style of `line_styles` is the grey of the rest."""
    return bool(style["color"] == REST)


def label_ends(axes: Any, ends: Sequence[tuple[float, str, str]], gap: float = 11.5) -> None:
    """Write (y, text, colour) right of the axes, each at its line's end or as near as `gap` points
    to the next name allow.

    The limits of the axes must be final.
    """
    ordered = sorted(ends, key=lambda end: end[0])
    points_per_pixel = 72 / axes.figure.dpi
    _, bottom = axes.transAxes.transform((0, 0))
    heights = []
    for y, _, _ in ordered:
        _, pixel = axes.get_yaxis_transform().transform((0, y))
        heights.append((pixel - bottom) * points_per_pixel)
    for height, (_, text, colour) in zip(spread(heights, gap), ordered):
        axes.annotate(
            text,
            xy=(1, 0),
            xycoords="axes fraction",
            xytext=(6, height),
            textcoords="offset points",
            fontsize=9,
            va="center",
            color=colour,
            annotation_clip=False,
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values moved as little as possible until neighbours are `gap` apart."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _lowest(groups[-1], gap) - _highest(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    moved = []
    for group in groups:
        lowest = _lowest(group, gap)
        moved += [lowest + gap * number for number in range(len(group))]
    return moved


def _lowest(group: Sequence[float], gap: float) -> float:
    """Where the first of a group stands that is `gap` apart around its mean."""
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _highest(group: Sequence[float], gap: float) -> float:
    return _lowest(group, gap) + gap * (len(group) - 1)


def band(
    axes: Any,
    x: Sequence[float],
    points: Sequence[Mapping[str, float]],
    alpha: float = 0.13,
    **line: Any,
) -> None:
    """Draw a line through the values of intervals, and the band between their ends."""
    axes.fill_between(
        x,
        [point["low"] for point in points],
        [point["high"] for point in points],
        color=line["color"],
        alpha=alpha,
        linewidth=0,
    )
    values = [point["value"] for point in points]
    axes.plot(x, values, **line)


def legend(parent: Any, handles: Iterable[Any], **options: Any) -> None:
    """Add a legend without frame to a figure or to axes; `options` are matplotlib's."""
    defaults = {
        "frameon": False,
        "fontsize": 9,
        "labelcolor": TEXT,
    }
    parent.legend(handles=handles, **{**defaults, **options})


def swatch(colour: str, label: str, edge: str | None = None) -> Any:
    """A filled box for a legend."""
    return Patch(
        facecolor=colour,
        edgecolor=edge,
        linewidth=1.1 if edge else 0,
        label=label,
    )


def outline_cells(axes: Any, cells: Iterable[tuple[float, float]], width: float) -> None:
    """Outline unit squares by their lower corners; `width` in points."""
    squares = [Rectangle(corner, 1, 1) for corner in cells]
    outlines = PatchCollection(
        squares,
        facecolor="none",
        edgecolor=TEXT,
        linewidth=width,
        joinstyle="miter",
        zorder=3,
        clip_on=False,
    )
    axes.add_collection(outlines)


def colormap(ramp: Ramp) -> Any:
    """A colour scale of matplotlib."""
    return LinearSegmentedColormap.from_list("credit", list(ramp))
