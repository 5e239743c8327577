"""A processor for Ray workers that needs no model, so that a worker starts without torch, and of
which one is killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

PATIENCE = 120.0  # seconds


@dataclass
class MortalWorker:
    """Answers each line with the process that it runs in and the GPUs that Ray gave this process.

    Nobody answers before two processes have lines. The first one with a second block is killed
    after the first line of it. `folder` then has a file for each process, and `dead`.
    """

    folder: Path
    blocks: int = field(default=0, init=False)

    def answers(self, lines: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """One reply a line, in order."""
        self.blocks += 1
        self._wait_for_another()
        for line in lines:
            yield int(line), {"process": os.getpid(), "gpus": ray.get_gpu_ids()}
            if self.blocks == 2 and not (self.folder / "dead").exists():
                (self.folder / "dead").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)

    def _wait_for_another(self) -> None:
        (self.folder / str(os.getpid())).touch()
        ends = time.monotonic() + PATIENCE
        while len(list(self.folder.iterdir())) < 2:
            assert time.monotonic() < ends, "all lines went to one worker"
            time.sleep(0.01)
