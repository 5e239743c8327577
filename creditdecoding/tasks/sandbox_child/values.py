"""Plain values as JSON and back: what may go between an answer's process and what judges it.
Nothing here can run code of the other side.

None, truth values, numbers that JSON holds, texts and lists are themselves; all else is an object
with one key, its kind: int (large, in hexadecimal), complex, bytes, tuple, dict (pairs), set,
frozenset. A value of a subclass goes as the plain value in it, so that its own `==` stays behind.
Something that can be iterated goes as a number to ask for more by; any other object as the name of
its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

TYPE_CHECKING = False  # as typing has it, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    Tree = Any
    """What `json` reads and writes."""

_EXACT = 1 << 53


class MalformedError(ValueError):
    """The other side sent something that stands for no value."""


class Thing:
    """Stands for an object that cannot be sent: it has a type's name and equals nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode(value: object, keep: Callable[[Iterator[object]], int] | None = None) -> Tree:
    """The value as a tree. `keep` takes what can be iterated and gives its number; without it that
    is a TypeError, as is any other object.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int(value)
        return number if -_EXACT < number < _EXACT else {"int": hex(number)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list):
        return [encode(item, keep) for item in list.__iter__(value)]
    for kind, (belongs, parts) in _KINDS.items():
        if isinstance(value, belongs):
            return {kind: parts(value, keep)}
    if keep is None:
        raise TypeError(f"a {type(value).__name__} cannot be sent to an answer")
    if isinstance(value, Iterable):
        return {"iterator": keep(iter(value))}
    return {"thing": type(value).__name__}


def _each(items: Iterable[object], keep: Callable[[Iterator[object]], int] | None) -> list[Tree]:
    return [encode(item, keep) for item in items]


_KINDS: dict[str, tuple[Any, Callable[[Any, Any], Tree]]] = {
    "tuple": (tuple, lambda value, keep: _each(tuple.__iter__(value), keep)),
    "dict": (dict, lambda value, keep: [_each(pair, keep) for pair in dict.items(value)]),
    "set": (set, lambda value, keep: _each(set.__iter__(value), keep)),
    "frozenset": (frozenset, lambda value, keep: _each(frozenset.__iter__(value), keep)),
    "bytes": ((bytes, bytearray), lambda value, keep: bytes(value).hex()),
    "complex": (complex, lambda value, keep: [value.real, value.imag]),
}


def _none(number: int) -> Iterator[object]:
    raise ValueError(f"no iterator {number}")


def decode(tree: Tree, more: Callable[[int], Iterator[object]] = _none) -> object:
    """The value of a tree. `more` gives the iterator of a number. Raises `MalformedError`."""
    try:
        return _decoded(tree, more)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise MalformedError(type(error).__name__) from error


def _decoded(tree: Tree, more: Callable[[int], Iterator[object]]) -> object:
    if isinstance(tree, list):
        return [_decoded(item, more) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "iterator":
        return more(content)
    return _MAKERS[kind](content, lambda item: _decoded(item, more))


_MAKERS: dict[str, Callable[[Any, Callable[[Tree], Any]], object]] = {
    "int": lambda content, value: int(content, 16),
    "complex": lambda content, value: complex(*content),
    "bytes": lambda content, value: bytes.fromhex(content),
    "tuple": lambda content, value: tuple(map(value, content)),
    "set": lambda content, value: set(map(value, content)),
    "frozenset": lambda content, value: frozenset(map(value, content)),
    "dict": lambda content, value: {value(key): value(item) for key, item in content},
    "thing": lambda content, value: Thing(str(content)),
}
