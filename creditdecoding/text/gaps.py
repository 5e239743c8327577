"""Texts with gaps: `[MASK]` marks one missing token, `[MASK*n]` marks n of them."""

from __future__ import annotations

import re
from typing import NamedTuple

from creditdecoding.errors import OptionError

INFILL_MASK = "[MASK]"
_MARKER = re.compile(r" ?\[MASK(?:\*([1-9][0-9]{0,8}))?\]")
_MALFORMED = re.compile(r"\[MASK[^\]]{0,20}\]?")


class Gap(NamedTuple):
    """Missing tokens; not `fixed` if the text does not say how many."""

    length: int
    fixed: bool


def split_gaps(text: str, most: int) -> list[str | Gap]:
    """The pieces of a text, gaps among them.

    A blank before a gap belongs to it: in most vocabularies it is the first character of the
    missing token. Raises `OptionError` for a text without a gap, a marker that is neither `[MASK]`
    nor `[MASK*n]`, and more than `most` missing tokens.
    """
    pieces: list[str | Gap] = []
    start = 0
    for marker in _MARKER.finditer(text):
        pieces.append(text[start : marker.start()])
        number = marker.group(1)
        pieces.append(Gap(int(number or 1), fixed=number is not None))
        start = marker.end()
    pieces.append(text[start:])
    _check(pieces, most)
    return [piece for piece in pieces if piece]


def _check(pieces: list[str | Gap], most: int) -> None:
    """Raise `OptionError` for gaps that cannot be filled."""
    gaps = [piece for piece in pieces if isinstance(piece, Gap)]
    for piece in pieces:
        malformed = _MALFORMED.search(piece) if isinstance(piece, str) else None
        if malformed:
            raise OptionError(
                "a gap is malformed",
                given=malformed.group(),
                allowed="[MASK], or [MASK*n] for n missing tokens, n from 1",
                hint="Correct it.",
            )
    missing = sum(gap.length for gap in gaps)
    if not missing:
        raise OptionError(
            "there is no mask in the text to fill", hint="Mark each missing token with [MASK]."
        )
    if missing > most:
        raise OptionError(
            "the gaps are longer than the model allows",
            given=f"{missing} tokens",
            allowed=f"{most} with the text",
            hint="Lower the numbers in [MASK*n].",
        )
