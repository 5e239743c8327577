"""The judge's end of a channel: a function that stands for the answer's, called in another process
by value.

What comes back is plain values (values.py), so no object of the answer's can pretend to equal what
it is compared with. An answer that ends, hangs up or sends nonsense raises `StoppedError`, which
tests cannot take for an error they wait for, and stays stopped.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator, Sequence

from .channel import Channel, ClosedError
from .values import MalformedError, decode, encode

TYPE_CHECKING = False  # as typing has it, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .values import Tree


class StoppedError(BaseException):
    """The answer's process gives no more answers."""


class AnswerError(Exception):
    """The answer raised an error of a class of its own."""


class Asking:
    """Calls one function at the other end of a channel. `limit` is the most bytes that a reply may
    have; `stopped` says why no more come.
    """

    def __init__(self, channel: Channel, limit: int) -> None:
        self.channel = channel
        self.limit = limit
        self.stopped = ""

    def start(self, source: str, target: str) -> None:
        """Send the code and wait until it has run. Raises what it raised, or `StoppedError`."""
        self._ask(source, target)

    def tree(self, arguments: Sequence[object]) -> Tree:
        """What the function gives, as the tree that was sent: nothing is built of it."""
        reply = self._ask("call", encode(list(arguments)), encode({}))
        return reply[0]

    def call(self, *arguments: object, **named: object) -> object:
        """What the function gives. One that gives None may have changed lists, sets and dicts it
        was given: ours are changed alike.
        """
        result, *changed = self._ask("call", encode(list(arguments)), encode(named))
        if changed:
            after: Any = self._value(changed[0])
            self._change([list(arguments), named], after)
        return self._value(result)

    def _change(self, before: Any, after: Any) -> None:
        """Make `before` as `after` is, in place, at every depth that both share."""
        if type(before) is not type(after):
            return
        if isinstance(before, (list, tuple)) and len(before) == len(after):
            for old, new in zip(before, after):
                self._change(old, new)
        if isinstance(before, list) and before != after:
            before[:] = after
        if isinstance(before, dict) and before != after:
            for key in before.keys() & after.keys():
                self._change(before[key], after[key])
            before.clear()
            before.update(after)
        if isinstance(before, set):
            before.clear()
            before.update(after)

    def _value(self, tree: Tree) -> object:
        try:
            return decode(tree, self._more)
        except MalformedError as error:
            raise self._stop("it sent no value") from error

    def _more(self, number: int) -> Iterator[object]:
        """The items of an iterator that the answer keeps, fetched one by one."""
        while reply := self._ask("next", number):
            yield self._value(reply[0])

    def _ask(self, *message: object) -> Sequence[Any]:
        """One message and the content of its reply."""
        if self.stopped:
            raise StoppedError(self.stopped)
        try:
            self.channel.send(*message)
            kind, *content = self.channel.receive(self.limit)
        except ClosedError as error:
            raise self._stop(str(error)) from error
        expected = {"ready": (0,), "returned": (1, 2), "ended": (0,), "raised": (2,)}
        if not isinstance(kind, str) or len(content) not in expected.get(kind, ()):
            raise self._stop("it sent no reply")
        if kind == "raised":
            raise self._error(*content)
        return content

    def _error(self, names: object, tree: Tree) -> BaseException:
        """The nearest error of Python's own; whatever would end a program ends the answer."""
        if not isinstance(names, list) or "Exception" not in names:
            return self._stop(f"it ended with {names}")
        arguments = self._value(tree)
        for name in names[: names.index("Exception")]:
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                with contextlib.suppress(TypeError):  # some want other arguments
                    return kind(*arguments)  # type: ignore[misc]
        return AnswerError(names[0], arguments)

    def _stop(self, reason: str) -> StoppedError:
        self.stopped = reason
        return StoppedError(reason)
