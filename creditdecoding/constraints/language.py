"""Regular languages as trees of code points."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

CodePoints: TypeAlias = tuple[tuple[int, int], ...]
"""Inclusive ranges in order, without overlaps."""
SURROGATES = (0xD800, 0xDFFF)
LAST = 0x10FFFF
SHORT_ESCAPES = {
    8: "b",
    9: "t",
    10: "n",
    12: "f",
    13: "r",
    34: '"',
    92: "\\",
}


@dataclass(frozen=True)
class Chars:
    """One character out of `ranges`; no text at all if there are none."""

    ranges: CodePoints


@dataclass(frozen=True)
class Joined:
    """The parts one after the other; the empty text if there are none."""

    parts: tuple[Language, ...]


@dataclass(frozen=True)
class Either:
    """One of the options; no text at all if there are none."""

    options: tuple[Language, ...]


@dataclass(frozen=True)
class Repeated:
    """`least` to `most` times the part; without `most` any number from `least` on."""

    part: Language
    least: int
    most: int | None


@dataclass(frozen=True)
class Both:
    """The texts that are in both languages. `path`: the schema that joins them, for errors."""

    left: Language
    right: Language
    path: str = ""


Language: TypeAlias = Chars | Joined | Either | Repeated | Both


def char_set(
    ranges: Iterable[tuple[int, int]],
) -> Chars:
    """One character out of ranges in any order; surrogates are left out."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (
                merged[-1][0],
                max(high, merged[-1][1]),
            )
        else:
            merged.append((low, high))
    return Chars(_without(tuple(merged), *SURROGATES))


def _without(ranges: CodePoints, first: int, last: int) -> CodePoints:
    """The ranges without `first` to `last`."""
    below = [(low, min(high, first - 1)) for low, high in ranges if low < first]
    above = [(max(low, last + 1), high) for low, high in ranges if high > last]
    return tuple(below + above)


def complement(chars: Chars) -> Chars:
    """Every other character."""
    rest = []
    first = 0
    for low, high in chars.ranges:
        rest.append((first, low - 1))
        first = high + 1
    rest.append((first, LAST))
    return char_set((low, high) for low, high in rest if low <= high)


ANY = complement(Chars(()))
DIGIT = char_set([(ord("0"), ord("9"))])
EMPTY = Joined(())


def literal(text: str) -> Joined:
    """This text alone."""
    return Joined(tuple(Chars(((ord(char), ord(char)),)) for char in text))


def optional(part: Language) -> Repeated:
    """The part or nothing."""
    return Repeated(part, 0, 1)


def joined(*parts: Language | str) -> Joined:
    """Texts and languages one after the other."""
    return Joined(tuple(literal(part) if isinstance(part, str) else part for part in parts))


def is_empty(language: Language) -> bool:
    """Whether surely no text is in a language; what must hold together is not compared."""
    if isinstance(language, Chars):
        return not language.ranges
    if isinstance(language, Joined):
        return any(is_empty(part) for part in language.parts)
    if isinstance(language, Either):
        return all(is_empty(option) for option in language.options)
    if isinstance(language, Repeated):
        return language.least > 0 and is_empty(language.part)
    return is_empty(language.left) or is_empty(language.right)


def in_json_string(language: Language) -> Language:
    """The texts of a language as they are written between the quotes of a JSON string.

    Every character is written in one way: quotes, backslashes and control characters escaped.
    """
    if isinstance(language, Chars):
        return _escaped(language)
    if isinstance(language, Joined):
        return Joined(tuple(in_json_string(part) for part in language.parts))
    if isinstance(language, Either):
        return Either(tuple(in_json_string(option) for option in language.options))
    if isinstance(language, Repeated):
        return Repeated(
            in_json_string(language.part),
            language.least,
            language.most,
        )
    return Both(
        in_json_string(language.left),
        in_json_string(language.right),
        language.path,
    )


@functools.lru_cache(maxsize=4096)
def _escaped(chars: Chars) -> Language:
    """One character of a JSON string."""
    special = [*range(0x20), ord('"'), ord("\\")]
    plain = chars.ranges
    for code in special:
        plain = _without(plain, code, code)
    escaped = [code for code in special if any(a <= code <= b for a, b in chars.ranges)]
    options = [literal(f"\\{SHORT_ESCAPES.get(code, f'u{code:04x}')}") for code in escaped]
    return Either((Chars(plain), *options)) if options else Chars(plain)
