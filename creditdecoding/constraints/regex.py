"""Regular expressions, in Python's syntax, as languages.

Python's own parser reads them. What no regular language has (look-around, references back), and
anchors inside a pattern, is refused by name.
"""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from creditdecoding.constraints.language import (
    ANY,
    EMPTY,
    LAST,
    Chars,
    Either,
    Joined,
    Language,
    Repeated,
    char_set,
    complement,
    joined,
)
from creditdecoding.errors import OptionError

if sys.version_info >= (3, 11):
    from re import _parser as sre  # type: ignore[attr-defined]
else:
    import sre_parse as sre

MAX_PATTERN = 10_000
"""Characters of a pattern."""
_REFUSED = {
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "GROUPREF": "a reference to a group",
    "GROUPREF_EXISTS": "a reference to a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
    "AT": "an anchor inside the pattern",
}
_STARTS = ("AT_BEGINNING", "AT_BEGINNING_STRING")
_ENDS = ("AT_END", "AT_END_STRING")
_CLASSES = {
    "DIGIT": r"\d",
    "SPACE": r"\s",
    "WORD": r"\w",
}
_POSIX_CLASS = re.compile(
    r"(?<!\\)\[:\^?(alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word"
    r"|xdigit):\]"
)
"""Python reads `[[:alpha:]]` as a set of the characters `[:alph`, and then a `]`."""
_FLAGS = {
    re.IGNORECASE: "(?i)",
    re.MULTILINE: "(?m)",
    re.LOCALE: "(?L)",
}


def whole_pattern(pattern: str) -> Language:
    """The texts that a pattern matches as a whole (`re.fullmatch`). Raises `OptionError`."""
    tree, dot = _parsed(pattern)
    return Either(tuple(_without_anchors(branch, dot)[0] for branch in _branches(tree)))


def found_pattern(pattern: str) -> Language:
    """The texts in which a pattern is found (`re.search`, as JSON schemas do). Raises
    `OptionError`.
    """
    tree, dot = _parsed(pattern)
    options = []
    for branch in _branches(tree):
        language, at_start, at_end = _without_anchors(branch, dot)
        before = EMPTY if at_start else Repeated(ANY, 0, None)
        after = EMPTY if at_end else Repeated(ANY, 0, None)
        options.append(joined(before, language, after))
    return Either(tuple(options))


def _parsed(pattern: str) -> tuple[list[Any], Chars]:
    """The parser's tree, and what a dot stands for."""
    if len(pattern) > MAX_PATTERN:
        raise OptionError(
            "the pattern is too long",
            given=f"{len(pattern)} characters",
            allowed=f"{MAX_PATTERN} at most",
            hint="Shorten it.",
        )
    posix_class = _POSIX_CLASS.search(pattern)
    if posix_class:
        raise _refusal(f"the POSIX class {posix_class.group()}", pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `[[a]`: sets in sets may come
            tree = sre.parse(pattern)
    except (
        re.error,
        RecursionError,
        OverflowError,
    ) as error:
        what = f"the pattern cannot be read ({error})"
        raise OptionError(
            what,
            given=pattern,
            hint="Write it in Python's syntax.",
        ) from error
    for flag, name in _FLAGS.items():
        if tree.state.flags & flag:
            raise _refusal(f"the flag {name}", pattern)
    newline = char_set([(10, 10)])
    dot = ANY if tree.state.flags & re.DOTALL else complement(newline)
    return list(tree), dot


def _refusal(construct: str, pattern: str | None = None) -> OptionError:
    return OptionError(
        f"a pattern with {construct} is not supported",
        given=pattern,
        hint="Write the pattern without it.",
    )


def _branches(tree: list[Any]) -> list[list[Any]]:
    """The alternatives of a whole pattern, also inside a group that spans it."""
    if len(tree) != 1:
        return [tree]
    name, argument = str(tree[0][0]), tree[0][1]
    if name == "BRANCH":
        return [inner for branch in argument[1] for inner in _branches(list(branch))]
    if name == "SUBPATTERN":
        return _branches(_inside(argument))
    return [tree]


def _inside(group: Any) -> list[Any]:
    """What is inside of a group. Raises `OptionError` for one with flags of its own."""
    _, added, removed, part = group
    if added or removed:
        raise _refusal("flags of a group")
    return list(part)


def _without_anchors(branch: list[Any], dot: Chars) -> tuple[Language, bool, bool]:
    """The language of a branch, and whether it is anchored at its start and at its end."""
    start = 0
    end = len(branch)
    while start < end and _is_anchor(branch[start], _STARTS):
        start += 1
    while end > start and _is_anchor(branch[end - 1], _ENDS):
        end -= 1
    return (
        _sequence(branch[start:end], dot),
        start > 0,
        end < len(branch),
    )


def _is_anchor(node: tuple[Any, Any], names: tuple[str, ...]) -> bool:
    return str(node[0]) == "AT" and str(node[1]) in names


def _sequence(tree: Iterable[Any], dot: Chars) -> Joined:
    return Joined(tuple(_node(str(name), argument, dot) for name, argument in tree))


def _node(name: str, argument: Any, dot: Chars) -> Language:
    """The language of one node of the parser's tree."""
    if name in _REFUSED:
        is_boundary = name == "AT" and "BOUNDARY" in str(argument)
        raise _refusal("a word boundary" if is_boundary else _REFUSED[name])
    if name == "ANY":
        return dot
    make = _NODES.get(name)
    return make(argument, dot) if make else _set(((name, argument),))


def _repeat(argument: Any, dot: Chars) -> Language:
    least, most, part = argument
    return Repeated(
        _sequence(part, dot),
        int(least),
        None if most == sre.MAXREPEAT else int(most),
    )


def _branch(argument: Any, dot: Chars) -> Language:
    return Either(tuple(_sequence(branch, dot) for branch in argument[1]))


@functools.lru_cache(maxsize=4096)
def _set(items: tuple[Any, ...]) -> Chars:
    """One character out of the items of a set."""
    ranges: list[tuple[int, int]] = []
    negated = False
    for name, argument in ((str(name), argument) for name, argument in items):
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            ranges.append((argument, argument))
        elif name == "NOT_LITERAL":
            ranges += complement(char_set([(argument, argument)])).ranges
        elif name == "RANGE":
            ranges.append(argument)
        else:
            ranges += _category(str(argument), negated).ranges
    chars = char_set(ranges)
    return complement(chars) if negated else chars


@functools.cache
def _category(name: str, negated: bool) -> Chars:
    r"""The characters of \d, \w, \s and their complements.

    Where dialects disagree it is the smaller set: \d is 0 to 9, and \D no digit of any script.
    """
    *is_complement, kind = name.removeprefix("CATEGORY_").split("NOT_")
    wide = bool(is_complement) != negated
    chars = _class(kind, wide)
    return complement(chars) if is_complement else chars


@functools.cache
def _class(kind: str, every_script: bool) -> Chars:
    """The characters of a class, in ASCII or in every script."""
    everything = "".join(
        map(
            chr,
            range(LAST + 1 if every_script else 128),
        )
    )
    matches = re.finditer(f"{_CLASSES[kind]}+", everything)
    return char_set([(match.start(), match.end() - 1) for match in matches])


_NODES: dict[str, Callable[[Any, Chars], Language]] = {
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
    "SUBPATTERN": lambda argument, dot: _sequence(_inside(argument), dot),
    "BRANCH": _branch,
    "IN": lambda argument, _: _set(tuple(argument)),
}
