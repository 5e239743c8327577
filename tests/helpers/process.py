"""Run the `credit` command line in a process of its own that gets a signal when its files hold so
many lines.

The process comes from a server that has imported the package already, so it starts at once; it is a
real one, with a session, signals and
standard error of its own.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    "creditdecoding.train.loop",
]
PATIENCE = 300.0  # seconds after which a process that hangs is given up


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (the negative number of a signal that killed it), what
    it said, and the number of its session.
    """

    status: int
    stderr: str
    session: int

    def alone(self) -> bool:
        """Whether all processes of its session end too, in a time that no busy machine needs."""
        pause = threading.Event()
        until = time.monotonic() + PATIENCE
        while members(self.session):
            if time.monotonic() > until:
                return False
            pause.wait(0.02)
        return True


def members(session: int) -> list[int]:
    """The processes of a session; none where the system has no /proc to look at."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has just ended
        if int(of) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


@dataclass(frozen=True)
class Moment:
    """When the files that match `pattern` in `folder` hold so many lines, all processes of the
    session get `signal`.
    """

    folder: Path
    pattern: str
    lines: int
    signal: signal.Signals

    def reached(self) -> bool:
        """Whether the lines are there."""
        return (
            sum(path.read_bytes().count(b"\n") for path in self.folder.glob(self.pattern))
            >= self.lines
        )


def signalled(arguments: Sequence[str | Path], moment: Moment, log: Path) -> Ended:
    """Run `credit` with these arguments, and send the signal at that moment."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(
        target=_run, args=([str(argument) for argument in arguments], moment, log)
    )
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"it hangs; it said: {log.read_text()}")
    assert process.pid is not None
    return Ended(process.exitcode, log.read_text(), process.pid)


def _run(
    arguments: list[str], moment: Moment, log: Path
) -> None:  # pragma: no cover - in another process
    """Body of the process."""
    os.setsid()
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # who starts tests in the background has it switched off
    threading.Thread(target=_watch, args=(moment,), daemon=True).start()
    from creditdecoding.cli import main  # noqa: PLC0415

    sys.argv = ["credit", *arguments]
    main()


def _watch(moment: Moment) -> None:  # pragma: no cover - in another process
    """Send the signal: to all processes of the session, but SIGKILL to this one alone."""
    pause = threading.Event()
    while not moment.reached():
        pause.wait(0.002)
    if moment.signal == signal.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    os.killpg(0, moment.signal)
