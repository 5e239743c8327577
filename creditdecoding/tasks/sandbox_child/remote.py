"""The judge's end of a channel: a stand-in for the answer's function, which is called by value in
another process.

Results are plain values (see `values`), so no object of the answer can pretend to equal what it is
compared with. If the answer's process ends, hangs up or sends nonsense, this and all later calls
raise `StoppedError`, which tests cannot mistake for an error they expect.
"""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator, Sequence

from .channel import Channel, ClosedError
from .values import MalformedError, decode, encode

TYPE_CHECKING = False  # typing's own takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .values import Tree

_CONTENT_SIZES = {"ready": (0,), "returned": (1, 2), "ended": (0,), "raised": (2,)}


class StoppedError(BaseException):
    """The answer's process gives no more replies."""


class AnswerError(Exception):
    """The answer raised an error of a class of its own."""


class RemoteFunction:
    """The function at the other end of a channel.

    `limit` is the most bytes that a reply may have; `stopped` says why there are no more replies.
    """

    def __init__(self, channel: Channel, limit: int) -> None:
        self.channel = channel
        self.limit = limit
        self.stopped = ""

    def start(self, source: str, target: str) -> None:
        """Send the code and wait until it has run. Raises what it raised, or `StoppedError`."""
        self._request(source, target)

    def call_for_tree(self, arguments: Sequence[object]) -> Tree:
        """The result of a call as the tree that was sent: no object is built from it."""
        reply = self._request("call", encode(list(arguments)), encode({}))
        return reply[0]

    def call(self, *arguments: object, **keywords: object) -> object:
        """The result of a call. A function that returns None may have changed lists, sets and dicts
        among its arguments: ours are changed in the same way.
        """
        result, *changed = self._request("call", encode(list(arguments)), encode(keywords))
        if changed:
            after: Any = self._decode(changed[0])
            _update([list(arguments), keywords], after)
        return self._decode(result)

    def _decode(self, tree: Tree) -> object:
        try:
            return decode(tree, self._iterate)
        except MalformedError as error:
            raise self._stop("it sent no value") from error

    def _iterate(self, number: int) -> Iterator[object]:
        """The items of an iterator in the answer's process, fetched one by one."""
        while reply := self._request("next", number):
            yield self._decode(reply[0])

    def _request(self, *message: object) -> Sequence[Any]:
        """Send one message. Returns the content of its reply."""
        if self.stopped:
            raise StoppedError(self.stopped)
        try:
            self.channel.send(*message)
            kind, *content = self.channel.receive(self.limit)
        except ClosedError as error:
            raise self._stop(str(error)) from error
        if not isinstance(kind, str) or len(content) not in _CONTENT_SIZES.get(kind, ()):
            raise self._stop("it sent no reply")
        if kind == "raised":
            raise self._error(*content)
        return content

    def _error(self, names: object, tree: Tree) -> BaseException:
        """The nearest of Python's own errors; errors that would end a program stop the answer."""
        if not isinstance(names, list) or "Exception" not in names:
            return self._stop(f"it ended with {names}")
        arguments = self._decode(tree)
        for name in names[: names.index("Exception")]:
            cls = getattr(builtins, str(name), None)
            if isinstance(cls, type) and issubclass(cls, Exception):
                with contextlib.suppress(TypeError):  # some need other arguments
                    return cls(*arguments)  # type: ignore[misc]
        return AnswerError(names[0], arguments)

    def _stop(self, reason: str) -> StoppedError:
        self.stopped = reason
        return StoppedError(reason)


def _update(before: Any, after: Any) -> None:
    """Make `before` equal to `after` in place, at every depth that both share."""
    if type(before) is not type(after):
        return
    if isinstance(before, (list, tuple)) and len(before) == len(after):
        for old, new in zip(before, after):
            _update(old, new)
    if isinstance(before, list) and before != after:
        before[:] = after
    if isinstance(before, dict) and before != after:
        for key in before.keys() & after.keys():
            _update(before[key], after[key])
        before.clear()
        before.update(after)
    if isinstance(before, set):
        before.clear()
        before.update(after)
