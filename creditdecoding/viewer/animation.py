"""A race of answers as one animated SVG: no script, works inside an `<img>`, loops.

The animation is CSS. Each pass has keyframes that show what it wrote from its time on, so the file
stays small. It follows the reader's light or dark scheme. Readers who prefer reduced motion, and
programs that do not animate, see the last frame. A token that was written, masked again and written
once more appears when it was written last.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from creditdecoding.viewer.frames import Cell, one_line
from creditdecoding.viewer.race import Lane
from creditdecoding.wording import count

_WIDTH = 860
_MARGIN = 20
_GUTTER = 20
_CHARACTER = 7.5
_LINE = 24
_CHIP = 19
_TAIL_WIDTH = 4.0
_PLAY_SECONDS = 8.0
_HOLD_SECONDS = 4.0
_LOOP_SECONDS = _PLAY_SECONDS + _HOLD_SECONDS
_FLASH_SECONDS = 0.35
_BAR = 420

_STYLE = Path(__file__).with_name("static") / "race.css"


@dataclass(frozen=True)
class Total:
    """A row below the race: a decoder, how long all questions took, and its numbers in words."""

    name: str
    seconds: float
    note: str


@dataclass(frozen=True)
class _Chip:
    """A position of the answer on the page, in pixels from the pane's corner."""

    cell: Cell
    x: float
    y: float
    width: float


def race_svg(lanes: Sequence[Lane], question: str, totals: Sequence[Total] = ()) -> str:
    """The lanes next to each other under the question, on one clock, and the totals below.

    The slowest lane takes eight seconds; its clock shows the measured ones.
    """
    pace = _PLAY_SECONDS / max(lane.seconds for lane in lanes)
    width = (_WIDTH - 2 * _MARGIN - _GUTTER * (len(lanes) - 1)) / len(lanes)
    parts = list(_header(question, pace))
    top = 66 + 20 * (len(parts) - 2)
    bottom = float(top)
    rules: list[str] = []
    for number, lane in enumerate(lanes):
        name = f"p{number}"
        left = _MARGIN + number * (width + _GUTTER)
        chips = _chips(lane, width)
        parts += _pane(lane, chips, name, left, top, width)
        rules += _keyframes(lane, name, pace)
        bottom = max(bottom, top + 52 + _LINE + max(chip.y for chip in chips))
    parts += _totals(totals, bottom + 22)
    height = bottom + (48 + 26 * len(totals) if totals else 10)
    return _document(parts, rules, height, _description(lanes, question))


def _header(question: str, pace: float) -> Iterator[str]:
    """A heading, the pace, and the question in lines."""
    yield _text(_MARGIN, 30, "One question, decoded twice", "name")
    note = f"played {pace:.1f} times slower than it ran" if pace > 1 else ""
    yield _text(_WIDTH - _MARGIN, 30, note, "quiet right")
    for number, line in enumerate(textwrap.wrap(one_line(question), 108)):
        yield _text(_MARGIN, 54 + 20 * number, line, "quiet")


def _document(parts: Sequence[str], rules: Sequence[str], height: float, about: str) -> str:
    loop = f"svg {{ --loop: {_LOOP_SECONDS:g}s }}"
    style = "\n".join([_STYLE.read_text(encoding="utf-8"), loop, *rules])
    size = f'viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" height="{height:g}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(about)}">\n'
        f"<title>{escape(about)}</title>\n<style>{style}</style>\n"
        f'<rect width="100%" height="100%" rx="10" fill="var(--page)"/>\n{body}\n</svg>\n'
    )


def _description(lanes: Sequence[Lane], question: str) -> str:
    """The race in words, for readers who do not see it."""
    counts = [
        f"{lane.name}: {count(lane.frames[-1].nfe, 'forward pass', 'forward passes')} "
        f"in {lane.seconds:.2f} s"
        for lane in lanes
    ]
    return f"{question} {'; '.join(counts)}."


def _chips(lane: Lane, width: float) -> list[_Chip]:
    """The positions of a lane in lines, none longer than `width` where a token is not."""
    chips = []
    x = 0.0
    y = 0.0
    for cell in lane.frames[-1].cells:
        chip_width = _TAIL_WIDTH
        if not cell.tail:
            chip_width = max(1, len(_shown(cell))) * _CHARACTER + 1
        if x and x + chip_width > width:
            x = 0.0
            y += _LINE
        chips.append(_Chip(cell, x, y, chip_width))
        x += chip_width + 1
    return chips


def _shown(cell: Cell) -> str:
    """The text of a token; the end of the answer has none."""
    return "" if cell.tail else one_line(cell.text)


def _pane(
    lane: Lane, chips: Sequence[_Chip], name: str, left: float, top: float, width: float
) -> Iterator[str]:
    """Name, clock, a bar that grows until the answer is complete, and the tokens."""
    colour = _colour(lane.name)
    yield f'<g transform="translate({left:g} {top:g})">'
    yield _text(0, 0, lane.name, "name", f' style="fill:{colour}"')
    yield f'<g class="clock" id="{name}">'
    for number, frame in enumerate(lane.frames):
        clock = f"{count(frame.nfe, 'pass', 'passes')} · {lane.times[number]:.2f} s"
        yield _text(width, 0, clock, "quiet right", f' style="animation-name:{name}c{number}"')
    yield "</g>"
    yield f'<rect y="10" width="{width:g}" height="4" rx="2" class="mask"/>'
    yield (
        f'<rect y="10" width="{width:g}" height="4" rx="2" class="bar" '
        f'style="fill:{colour};animation-name:{name}r"/>'
    )
    yield '<g class="tokens" transform="translate(0 30)">'
    for chip in chips:
        yield f'<rect {_box(chip)} rx="3" class="mask"/>'
    for number in range(1, len(lane.frames)):
        written = [chip for chip in chips if chip.cell.commit == number]
        if written:
            yield f'<g style="animation-name:{name}w{number}">'
            yield from map(_token, written)
            yield "</g>"
    yield "</g></g>"


def _box(chip: _Chip) -> str:
    return f'x="{chip.x:g}" y="{chip.y:g}" width="{chip.width:g}" height="{_CHIP}"'


def _token(chip: _Chip) -> str:
    """A written token: its chip, and its text as wide as the chip whatever the reader's font."""
    text = _shown(chip.cell)
    bare = text.strip(" ")
    if not bare:
        return f'<rect {_box(chip)} rx="3"/>'
    indent = (len(text) - len(text.lstrip(" "))) * _CHARACTER
    length = len(bare) * _CHARACTER
    attributes = f'x="{chip.x + indent + 0.5:g}" y="{chip.y + 14:g}" textLength="{length:g}"'
    return f'<rect {_box(chip)} rx="3"/><text {attributes}>{escape(bare)}</text>'


def _keyframes(lane: Lane, name: str, pace: float) -> Iterator[str]:
    """When each pass shows what it wrote, when its clock is seen, and how the bar grows."""
    times = [100 * seconds * pace / _LOOP_SECONDS for seconds in lane.times]
    flash = 100 * _FLASH_SECONDS / _LOOP_SECONDS
    last = len(times) - 1
    for number, start in enumerate(times):
        if number:
            calm = min(start + flash, 100.0)
            yield (
                f"@keyframes {name}w{number}{{0%{{opacity:0}}"
                f"{start:.2f}%{{opacity:1;fill:var(--new)}}{calm:.2f}%{{fill:var(--chip)}}}}"
            )
        end = "" if number == last else f"{times[number + 1]:.2f}%{{opacity:0}}"
        yield f"@keyframes {name}c{number}{{0%{{opacity:0}}{start:.2f}%{{opacity:1}}{end}}}"
    yield (
        f"@keyframes {name}r{{0%{{transform:scaleX(0)}}{times[-1]:.2f}%{{transform:scaleX(1)}}}}"
    )


def _totals(totals: Sequence[Total], top: float) -> Iterator[str]:
    """A bar of time for each decoder, its numbers at the end."""
    if not totals:
        return
    longest = max(total.seconds for total in totals)
    yield f'<path d="M{_MARGIN} {top - 14}H{_WIDTH - _MARGIN}" stroke="var(--line)"/>'
    yield _text(_MARGIN, top + 10, "All questions of the demo, one after the other", "quiet")
    for number, total in enumerate(totals):
        y = top + 22 + 26 * number
        width = max(2.0, _BAR * total.seconds / longest)
        colour = _colour(total.name)
        yield _text(_MARGIN, y + 13, total.name, "", f' style="fill:{colour}"')
        bar = f'x="140" y="{y:g}" width="{width:.1f}" height="16" rx="3"'
        yield f'<rect {bar} style="fill:{colour}"/>'
        yield _text(148 + width, y + 13, total.note, "quiet")


def _colour(name: str) -> str:
    """The colour of a decoder by the first word of its name; others are as the text."""
    first = name.split()[0]
    return f"var(--{first}, var(--text))" if first.isalpha() else "var(--text)"


def _text(x: float, y: float, text: str, kind: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}"{more}>{escape(text)}</text>' if text else ""
