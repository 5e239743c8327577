"""Run the `credit` command line in a process of its own, and send it signals.

The process comes from a fork server that has imported the package already, so it starts at once; it
is a real one, with its own session, signals and standard error.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from creditdecoding import run_dir
from creditdecoding.pav.data import label_store

PRELOADED = [
    "torch._dynamo",
    "transformers",
    "matplotlib.figure",
    "creditdecoding.batch.processor",
    "creditdecoding.cli",
    "creditdecoding.eval.compare",
    "creditdecoding.eval.tune",
    "creditdecoding.lm",
    "creditdecoding.pav.data.collect",
    "creditdecoding.pav.rl.train",
    "creditdecoding.pav.verifier.fit",
    "creditdecoding.plots.compare_page",
    "creditdecoding.plots.training",
    "creditdecoding.server.serve",
    "creditdecoding.train.loop",
]
PATIENCE = 300.0  # seconds after which a process that hangs is given up
PAUSE = 0.01  # seconds between two looks


@dataclass(frozen=True)
class SignalTrigger:
    """As soon as the files that match `pattern` in `folder` hold this many lines, all processes of
    the session get `signal`; SIGKILL only the first one.

    The first process sends it itself after it has written the line. `elsewhere` is for lines that
    other processes write: then a thread looks at the files, so the command must not be about to end.
    """

    folder: Path
    pattern: str
    lines: int
    signal: signal.Signals
    elsewhere: bool = False

    def reached(self) -> bool:
        """Whether the lines are there."""
        files = self.folder.glob(self.pattern)
        return sum(path.read_bytes().count(b"\n") for path in files) >= self.lines

    def send(self) -> None:
        """Send the signal."""
        if self.signal == signal.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        os.killpg(0, self.signal)

    def install(self) -> None:
        """Send the signal from this process when it is due."""
        if self.elsewhere:
            threading.Thread(target=_watch, args=(self,), daemon=True).start()
            return
        run_dir.append_bytes = label_store.append_bytes = _then(self, run_dir.append_bytes)
        run_dir.ResumableRun.log = _then(self, run_dir.ResumableRun.log)  # type: ignore[method-assign]


@dataclass(frozen=True)
class EndedProcess:
    """How a process ended: its exit status (the negative number of a signal that killed it), what
    it printed, and the number of its session.
    """

    status: int
    stderr: str
    session: int

    def leaves_nothing(self) -> bool:
        """Whether all processes of its session end too."""
        ends = time.monotonic() + PATIENCE
        while members(self.session):
            if time.monotonic() > ends:
                return False
            time.sleep(PAUSE)
        return True


def members(session: int) -> list[int]:
    """The processes of a session; none on systems without /proc."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has just ended
        if int(owner) == session and state != "Z":
            processes.append(int(path.parent.name))
    return processes


@dataclass(frozen=True)
class CreditProcess:
    """A running `credit` command; standard output and error go to `log`."""

    process: ForkServerProcess
    log: Path

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, text: str) -> str:
        """Wait until it has printed this text; returns all it has printed."""
        ends = time.monotonic() + PATIENCE
        while text not in self.output():
            assert self.process.is_alive(), self.output()
            assert time.monotonic() < ends, self.output()
            time.sleep(PAUSE)
        return self.output()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end; its exit status."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"it hangs; it printed: {self.output()}"
        return self.process.exitcode


@contextmanager
def start_credit(
    arguments: str | Sequence[str | Path],
    log: Path,
    trigger: SignalTrigger | None = None,
    files: int | None = None,
) -> Iterator[CreditProcess]:
    """Start `credit` with these arguments, and kill it after the with-block if it still runs.

    `files` is its limit of open files.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    words = arguments.split() if isinstance(arguments, str) else [str(a) for a in arguments]
    process = context.Process(target=_run, args=(words, log, trigger, files))
    process.start()
    try:
        yield CreditProcess(process, log)
    finally:
        process.kill()
        process.join()


def run_until_signalled(
    arguments: Sequence[str | Path], trigger: SignalTrigger, log: Path
) -> EndedProcess:
    """Run `credit` with these arguments to its end, with a signal on the way."""
    with start_credit(arguments, log, trigger) as running:
        status = running.wait()
        assert running.process.pid is not None
        return EndedProcess(status, running.output(), running.process.pid)


def port_in(output: str) -> int:
    """The port that `credit serve` says it listens at."""
    return int(output.split(" at http://127.0.0.1:")[1].split()[0])


def _run(
    arguments: list[str], log: Path, trigger: SignalTrigger | None, files: int | None
) -> None:  # pragma: no cover - in another process
    """Body of the process."""
    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # off where tests are started with &
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if trigger is not None:
        trigger.install()
    from creditdecoding.cli import main  # noqa: PLC0415

    sys.argv = ["credit", *arguments]
    main()


def _watch(trigger: SignalTrigger) -> None:  # pragma: no cover - in another process
    while not trigger.reached():
        time.sleep(0.002)
    trigger.send()


def _then(
    trigger: SignalTrigger, write: Callable[..., None]
) -> Callable[..., None]:  # pragma: no cover - in another process
    """`write`, followed by the signal when it is due."""

    def write_and_look(*arguments: Any) -> None:
        write(*arguments)
        if trigger.reached():
            trigger.send()

    return write_and_look
