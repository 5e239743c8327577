"""Names next to curves, where nothing else is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float]

_DISTANCE = 7
"""Points between the end of a curve and its name."""
_DENSITY = 6
"""Pixels from one dot of a line to the next."""
_APART = 22
"""Pixels without another curve around an end that may carry a name."""


@dataclass(frozen=True)
class CurveName:
    """A name for a curve through `points`, from left to right.

    A name that is required is written even where it covers something.
    """

    text: str
    colour: str
    points: Sequence[Point]
    is_required: bool


@dataclass(frozen=True)
class _Spot:
    """Where a name may stand: at a point of the axes, so many points away from it."""

    point: Point
    offset: Point
    alignment: str


def place_names(axes: Any, names: Sequence[CurveName]) -> list[str]:
    """Write each name at an end of its curve where it covers no curve and no other name.

    A name that is not required is left out if there is no such place, or if its curve ends among
    others. Returns what was left out. The limits of the axes must be final.
    """
    dots = [list(_line_pixels(axes, name.points)) for name in names]
    boxes: list[Any] = []
    left_out = []
    for number, name in enumerate(names):
        spots = list(_spots([point for point in name.points if axes.viewLim.contains(*point)]))
        others = [dot for i, row in enumerate(dots) if i != number for dot in row]
        if not name.is_required:
            spots = [spot for spot in spots if _is_apart(axes, spot.point, others)]
        text = _write_first_free(axes, name, spots, [*others, *dots[number]], boxes)
        if text is None and name.is_required and spots:
            text = _write(axes, name, spots[0])
        if text is None:
            left_out.append(name.text)
        else:
            boxes.append(_box(text))
    return left_out


def _line_pixels(axes: Any, points: Sequence[Point]) -> Iterator[Point]:
    """Pixels along a curve, dense enough that no name fits between two of them."""
    pixels = [axes.transData.transform(point) for point in points]
    yield from pixels
    for (x0, y0), (x1, y1) in itertools.pairwise(pixels):
        steps = 1 + int(max(abs(x1 - x0), abs(y1 - y0)) / _DENSITY)
        for step in range(1, steps):
            yield x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps


def _is_apart(axes: Any, point: Point, dots: Sequence[Point]) -> bool:
    """Whether no other curve is near a point."""
    own = axes.transData.transform(point)
    return all(math.dist(own, dot) > _APART for dot in dots)


def _spots(points: Sequence[Point]) -> Iterator[_Spot]:
    """The places of a name, best first: beside, below and above an end, then further down."""
    ends = dict.fromkeys((points[0], points[-1])) if points else ()
    for end in ends:
        yield _Spot(end, (-_DISTANCE, 0), "right")
        yield _Spot(end, (_DISTANCE, 0), "left")
        yield _Spot(end, (0, -1.8 * _DISTANCE), "center")
        yield _Spot(end, (0, 1.8 * _DISTANCE), "center")
    for end in ends:
        for distance in (1.5, 2.5, 4.0):
            yield _Spot(end, (-_DISTANCE, -distance * _DISTANCE), "right")
            yield _Spot(end, (_DISTANCE, -distance * _DISTANCE), "left")


def _write_first_free(
    axes: Any, name: CurveName, spots: Sequence[_Spot], dots: Sequence[Point], boxes: Sequence[Any]
) -> Any | None:
    """The text at the first spot where it covers nothing, or None."""
    for spot in spots:
        text = _write(axes, name, spot)
        box = _box(text)
        covers = any(box.contains(*dot) for dot in dots)
        if not covers and not box.count_overlaps(boxes) and _fits(axes, box):
            return text
        text.remove()
    return None


def _write(axes: Any, name: CurveName, spot: _Spot) -> Any:
    return axes.annotate(
        name.text,
        xy=spot.point,
        xytext=spot.offset,
        textcoords="offset points",
        ha=spot.alignment,
        va="center",
        fontsize=9,
        color=name.colour,
        zorder=6,
    )


def _fits(axes: Any, box: Any) -> bool:
    """Whether a box lies within the axes."""
    inside = axes.bbox
    is_wide_enough = inside.x0 <= box.x0 and box.x1 <= inside.x1
    return bool(is_wide_enough and inside.y0 <= box.y0 and box.y1 <= inside.y1)


def _box(text: Any) -> Any:
    """Where a text is drawn, in pixels."""
    return text.get_window_extent(text.figure.canvas.get_renderer())
