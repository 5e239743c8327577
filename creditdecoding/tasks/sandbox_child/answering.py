"""The answer's end of a channel: runs the answer's code, then calls its function on arguments as
they come and sends back what it gives.

It never sees what a result is compared with.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping

from .channel import Channel, ClosedError
from .values import decode, encode

TYPE_CHECKING = False  # as typing has it, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .values import Tree

_UNLIMITED = 1 << 40


def run(source: str, module: str, names: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Run code as a module of that name, in which `names` are defined; all its names."""
    made = types.ModuleType(module)
    made.__dict__.update(names or {})
    sys.modules[module] = made
    exec(compile(source, f"<{module}>", "exec"), made.__dict__)
    return made.__dict__


def serve(channel: Channel) -> None:
    """The first message has the code and the function's name, and is answered when the code has
    run; each further one is a call.
    """
    source, target = channel.receive(_UNLIMITED)
    try:
        answer = Answer(_find(run(source, "answer"), target))
    except BaseException as error:
        return channel.send("raised", *_described(error))
    channel.send("ready")
    with contextlib.suppress(ClosedError):
        while True:
            kind, *content = channel.receive(_UNLIMITED)
            channel.send(*answer.reply(kind, content))


class Answer:
    """An answer's function, and the iterators it gave so far, which are asked for more by their
    numbers.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.iterators: list[Iterator[object]] = []

    def reply(self, kind: str, content: list[Any]) -> list[Any]:
        """What a message is answered with."""
        try:
            return self._more(content[0]) if kind == "next" else self._call(*content)
        except BaseException as error:
            return ["raised", *_described(error)]

    def _call(self, arguments: Tree, named: Tree) -> list[Any]:
        """What a call gives. Where it gives None, the arguments as they are afterwards go along: it
        may have changed them.
        """
        given: Any = decode(arguments)
        by_name: Any = decode(named)
        result = self.function(*given, **by_name)
        if result is not None:
            return ["returned", encode(result, self._keep)]
        return ["returned", None, encode([given, by_name], self._keep)]

    def _more(self, number: int) -> list[Any]:
        """The next item of an iterator."""
        for item in self.iterators[number]:
            return ["returned", encode(item, self._keep)]
        return ["ended"]

    def _keep(self, iterator: Iterator[object]) -> int:
        self.iterators.append(iterator)
        return len(self.iterators) - 1


def _find(names: dict[str, Any], target: str) -> Callable[..., object]:
    """The function. Where `target` is Class.function and there is such a class, the method of a new
    object.
    """
    owner, _, function = target.rpartition(".")
    found: Any = names.get(owner)
    if isinstance(found, type):
        return getattr(found(), function)  # type: ignore[no-any-return]
    return names[function]  # type: ignore[no-any-return]


def _described(error: BaseException) -> tuple[list[str], Tree]:
    """The names of an error's classes, its own first, and its arguments if they can be sent."""
    try:
        arguments = encode(list(error.args))
    except Exception:
        arguments = []
    return [kind.__name__ for kind in type(error).__mro__], arguments
