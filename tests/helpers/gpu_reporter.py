"""A processor for Ray workers that needs no model, so that a worker starts without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import ray


class GpuReporter:
    """Answers each line with the process that it runs in and the GPUs that Ray gave this process."""

    def answers(self, lines: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """One reply a line, in order."""
        for line in lines:
            yield int(line), {"process": os.getpid(), "gpus": ray.get_gpu_ids()}
