"""Plain values as JSON trees and back: what may pass between an answer's process and its judge.
Nothing here can run code of the other side.

None, booleans, numbers that JSON holds, strings and lists are themselves. Everything else is an
object with one key, its kind: int (large, in hexadecimal), complex, bytes, tuple, dict (pairs),
set, frozenset. A value of a subclass is sent as the plain value in it, so that its own `==` is not
used. An iterable is sent as a number by which its items are requested; any other object as the name
of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

TYPE_CHECKING = False  # typing's own takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    Tree = Any
    """What `json` reads and writes."""

_EXACT = 1 << 53


class MalformedError(ValueError):
    """The other side sent a tree that stands for no value."""


class OpaqueValue:
    """Stands for an object that cannot be sent: it has the name of a type and equals nothing."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.type_name}>"


def encode(value: object, keep: Callable[[Iterator[object]], int] | None = None) -> Tree:
    """The value as a tree. `keep` stores an iterator and returns its number. Without it, iterators
    and all other objects raise a TypeError.
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
    for kind, (types, to_content) in _ENCODERS.items():
        if isinstance(value, types):
            return {kind: to_content(value, keep)}
    if keep is None:
        raise TypeError(f"a {type(value).__name__} cannot be sent to an answer")
    if isinstance(value, Iterable):
        return {"iterator": keep(iter(value))}
    return {"thing": type(value).__name__}


def _encode_all(
    items: Iterable[object], keep: Callable[[Iterator[object]], int] | None
) -> list[Tree]:
    return [encode(item, keep) for item in items]


_ENCODERS: dict[str, tuple[Any, Callable[[Any, Any], Tree]]] = {
    "tuple": (tuple, lambda value, keep: _encode_all(tuple.__iter__(value), keep)),
    "dict": (dict, lambda value, keep: [_encode_all(pair, keep) for pair in dict.items(value)]),
    "set": (set, lambda value, keep: _encode_all(set.__iter__(value), keep)),
    "frozenset": (frozenset, lambda value, keep: _encode_all(frozenset.__iter__(value), keep)),
    "bytes": ((bytes, bytearray), lambda value, keep: bytes(value).hex()),
    "complex": (complex, lambda value, keep: [value.real, value.imag]),
}


def _no_iterator(number: int) -> Iterator[object]:
    raise ValueError(f"no iterator {number}")


def decode(tree: Tree, iterate: Callable[[int], Iterator[object]] = _no_iterator) -> object:
    """The value of a tree. `iterate` returns the iterator of a number. Raises `MalformedError`."""
    try:
        return _decode(tree, iterate)
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise MalformedError(type(error).__name__) from error


def _decode(tree: Tree, iterate: Callable[[int], Iterator[object]]) -> object:
    if isinstance(tree, list):
        return [_decode(item, iterate) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "iterator":
        return iterate(content)
    return _DECODERS[kind](content, lambda item: _decode(item, iterate))


_DECODERS: dict[str, Callable[[Any, Callable[[Tree], Any]], object]] = {
    "int": lambda content, value: int(content, 16),
    "complex": lambda content, value: complex(*content),
    "bytes": lambda content, value: bytes.fromhex(content),
    "tuple": lambda content, value: tuple(map(value, content)),
    "set": lambda content, value: set(map(value, content)),
    "frozenset": lambda content, value: frozenset(map(value, content)),
    "dict": lambda content, value: {value(key): value(item) for key, item in content},
    "thing": lambda content, value: OpaqueValue(str(content)),
}
