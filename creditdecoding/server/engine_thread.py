"""The thread that drives the engine; all other threads talk to it through commands."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from creditdecoding.decoding.engine import Engine
from creditdecoding.errors import ModelError
from creditdecoding.trace import Event, FailEvent

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """A function to be called with the engine, and the future of its result."""

    function: Callable[[Engine], Any]
    future: Future[Any] = field(default_factory=Future)

    def run(self, engine: Engine) -> None:
        """Call the function, unless the future was cancelled in time."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function(engine))
        except Exception as error:
            self.future.set_exception(error)


class EngineThread:
    """Runs one engine, a command or a step at a time.

    `on_events` is called in this thread with the events of a step. If a step raises, all requests
    of the engine are lost: `on_engine_failure` is called with the error, and a new engine is made.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        on_events: Callable[[Sequence[Event | FailEvent]], None],
        on_engine_failure: Callable[[Exception], None],
    ) -> None:
        self._make_engine = make_engine
        self._on_events = on_events
        self._on_engine_failure = on_engine_failure
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()  # None: stop
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._stopped = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step; blocks until then."""
        self._commands.put(None)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether commands are run."""
        return not self._stopped and self._thread.is_alive()

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """Call `function` with the engine between two steps; `ModelError` once the thread ended."""
        command = Command(function)
        self._commands.put(command)
        if self._stopped:
            self._reject_pending()
        return command.future

    def _run(self) -> None:
        try:
            while self._drive(self._make_engine()):
                pass
        finally:
            self._stopped = True
            self._reject_pending()

    def _drive(self, engine: Engine) -> bool:
        """Step an engine until it fails (True) or the thread has to stop (False)."""
        while True:
            for command in self._next_commands(wait=not engine.busy):
                if command is None:
                    return False
                command.run(engine)
            try:
                events = engine.step()
            except Exception as error:
                self._on_engine_failure(error)
                return True
            if events:
                self._on_events(events)

    def _next_commands(self, wait: bool) -> list[Command | None]:
        """All pending commands; with `wait`, at least one."""
        commands = [self._commands.get()] if wait else []
        while not self._commands.empty():
            commands.append(self._commands.get())
        return commands

    def _reject_pending(self) -> None:
        error = ModelError("the engine has ended", hint="Start the server again.")
        for command in self._next_commands(wait=False):
            if command is not None and command.future.set_running_or_notify_cancel():
                command.future.set_exception(error)
