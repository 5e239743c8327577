"""The answer's end of a channel: runs the answer's code, then calls its function on the arguments
it receives and sends back the results.

This process never sees what a result is compared with.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping

from .channel import Channel, ClosedError
from .values import decode, encode

TYPE_CHECKING = False  # typing's own takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .values import Tree

_UNLIMITED = 1 << 40


def run(source: str, module: str, names: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Run code as a module called `module` in which `names` are defined. Returns all its names."""
    new = types.ModuleType(module)
    new.__dict__.update(names or {})
    sys.modules[module] = new
    exec(compile(source, f"<{module}>", "exec"), new.__dict__)
    return new.__dict__


def serve(channel: Channel) -> None:
    """Answer messages until the channel closes. The first one holds the code and the function's
    name, and is answered when the code has run; each further one is a call.
    """
    source, target = channel.receive(_UNLIMITED)
    try:
        answer = LoadedAnswer(_find(run(source, "answer"), target))
    except BaseException as error:
        return channel.send("raised", *_describe(error))
    channel.send("ready")
    with contextlib.suppress(ClosedError):
        while True:
            kind, *content = channel.receive(_UNLIMITED)
            channel.send(*answer.reply(kind, content))


class LoadedAnswer:
    """An answer's function, and the iterators it returned, which are advanced by their numbers."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.iterators: list[Iterator[object]] = []

    def reply(self, kind: str, content: list[Any]) -> list[Any]:
        """The reply to a message."""
        try:
            return self._next(content[0]) if kind == "next" else self._call(*content)
        except BaseException as error:
            return ["raised", *_describe(error)]

    def _call(self, arguments: Tree, keywords: Tree) -> list[Any]:
        """The result of a call. If it is None, the function may have changed its arguments, so they
        are sent back as well.
        """
        positional: Any = decode(arguments)
        named: Any = decode(keywords)
        result = self.function(*positional, **named)
        if result is not None:
            return ["returned", encode(result, self._keep)]
        return ["returned", None, encode([positional, named], self._keep)]

    def _next(self, number: int) -> list[Any]:
        """The next item of an iterator."""
        for item in self.iterators[number]:
            return ["returned", encode(item, self._keep)]
        return ["ended"]

    def _keep(self, iterator: Iterator[object]) -> int:
        self.iterators.append(iterator)
        return len(self.iterators) - 1


def _find(names: dict[str, Any], target: str) -> Callable[..., object]:
    """The function `target`. If it is Class.function and there is such a class, the method of a new
    object.
    """
    owner, _, function = target.rpartition(".")
    cls: Any = names.get(owner)
    if isinstance(cls, type):
        return getattr(cls(), function)  # type: ignore[no-any-return]
    return names[function]  # type: ignore[no-any-return]


def _describe(error: BaseException) -> tuple[list[str], Tree]:
    """The names of an error's classes, its own first, and its arguments if they can be sent."""
    try:
        arguments = encode(list(error.args))
    except Exception:
        arguments = []
    return [cls.__name__ for cls in type(error).__mro__], arguments
