"""The one thread that drives an engine: others hand it what to do, it hands them the events of
every step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from creditdecoding.decoding.engine import Engine
from creditdecoding.errors import ModelError
from creditdecoding.trace import Event, FailEvent

T = TypeVar("T")
OnEvents = Callable[[int, Sequence[Event | FailEvent]], None]
OnEngineFailure = Callable[[int, Exception], None]
Command = tuple["Future[Any]", Callable[[Engine], Any]]


class EngineThread:
    """An engine in a thread of its own; `deliver` is called in that thread with the engine's life
    and the events of a step.

    An exception that the engine lets out costs all rows it held: `lost` is called with it, and a
    new engine is made for the next life.
    """

    def __init__(
        self, make: Callable[[], Engine], deliver: OnEvents, lost: OnEngineFailure
    ) -> None:
        self.engine_generation = 0
        self._make, self._deliver, self._lost = make, deliver, lost
        self._orders: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._over = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in; blocks until then."""
        self._orders.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether orders are carried out."""
        return not self._over and self._thread.is_alive()

    def call(self, order: Callable[[Engine], T]) -> Future[T]:
        """Run `order` with the engine between two steps; one that is cancelled in time is not run.
        Fails when the thread has ended.
        """
        future: Future[T] = Future()
        self._orders.put((future, order))
        if self._over:
            self._turn_away()
        return future

    def _run(self) -> None:
        try:
            while self._live(self._make()):
                self.engine_generation += 1
        finally:
            self._over = True
            self._turn_away()

    def _live(self, engine: Engine) -> bool:
        """Drive one engine until it fails (True) or the thread is to end (False)."""
        while True:
            for order in self._taken(wait=not engine.busy):
                if order is None:
                    return False
                run_command(order, engine)
            try:
                events = engine.step()
            except Exception as error:
                self._lost(self.engine_generation, error)
                return True
            if events:
                self._deliver(self.engine_generation, events)

    def _taken(self, wait: bool) -> list[Command | None]:
        """The orders that lie there; if `wait`, at least one."""
        found = [self._orders.get()] if wait else []
        while not self._orders.empty():
            found.append(self._orders.get())
        return found

    def _turn_away(self) -> None:
        for order in self._taken(wait=False):
            if order is not None and order[0].set_running_or_notify_cancel():
                order[0].set_exception(
                    ModelError("the engine has ended", hint="Start the server again.")
                )


def run_command(order: Command, engine: Engine) -> None:
    future, function = order
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(engine))
    except Exception as error:
        future.set_exception(error)
