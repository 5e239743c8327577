"""Spreads the lines of a batch over a Ray cluster, by Ray Data.

    for index, row in answer_on_ray(make, BatchConfig(ray=4), EngineConfig(), lines): ...

Each worker is an actor with its own model and engine, and its own GPU if there are any. `make` is
called once in every actor and returns an object whose `answers(lines)` yields (index, row); it must
pickle. If an actor dies, its block of lines is answered by another.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np

from creditdecoding.batch.options import BatchConfig
from creditdecoding.config import EngineConfig
from creditdecoding.errors import CreditError, MissingExtraError, OptionError
from creditdecoding.wording import count

try:
    import pandas as pd
    import ray
    import ray.data
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

PASSES_PER_BLOCK = 2
"""A block has the lines of this many full passes."""

MAX_RESTARTS = 5
"""Restarts of an actor, and attempts for a block: a line that kills one actor kills the next."""


class BatchActor:
    """A worker: answers blocks of lines that Ray Data sends."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._processor = make()

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """The output rows of a block as JSON, with their indices, in the order they finished."""
        replies = list(self._processor.answers(block["line"]))
        rows = [json.dumps(row) for _, row in replies]
        return {
            "index": np.array([index for index, _ in replies]),
            "row": np.array(rows, dtype=object),
        }


def answer_on_ray(
    make: Callable[[], Any], options: BatchConfig, engine: EngineConfig, lines: Iterable[Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Replies as they come, in any order.

    Raises `OptionError` if there is no cluster or it has too few CPUs or GPUs, `CreditError` if it
    gives up.
    """
    starts_ray = not ray.is_initialized()
    if starts_ray:
        _start_ray(options)
    try:
        resources = _actor_resources(options, engine)
        block_size = PASSES_PER_BLOCK * engine.batch_size
        yield from _replies(make, options.ray, resources, block_size, iter(lines))
    except ray.exceptions.RayError as error:
        raise CreditError(
            f"the Ray cluster gave up: {_last_line(error)}",
            hint="Run the command again; it continues where it stopped.",
        ) from error
    finally:
        if starts_ray:
            ray.shutdown()


def _start_ray(options: BatchConfig) -> None:
    # Ray's core warns of every actor that may restart (its issue 53727). Real errors also come back
    # as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _keep_sigterm_handler():
            ray.init(
                address=options.address,
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if options.address is None else None,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OptionError(
            f"no Ray cluster ({_last_line(error)})",
            given=options.address,
            hint="Check --address, or start one: ray start.",
        ) from error


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _actor_resources(options: BatchConfig, engine: EngineConfig) -> dict[str, float]:
    """A GPU for each actor if the cluster has any and `engine` may use it, else a CPU.

    Raises `OptionError` where there are too few for all actors.
    """
    cluster = ray.cluster_resources()
    kind = "GPU" if cluster.get("GPU") and engine.device != "cpu" else "CPU"
    if cluster.get(kind, 0) < options.ray:
        raise OptionError(
            f"the Ray cluster has too few {kind}s",
            given=options.ray,
            allowed=f"{count(cluster.get(kind, 0.0), 'worker')} at most",
            hint="Ask for fewer workers with --ray, or let more machines join.",
        )
    return {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}


def _replies(
    make: Callable[[], Any],
    workers: int,
    resources: dict[str, float],
    block_size: int,
    lines: Iterator[Any],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Replies to lines. Waiting lines are kept in Ray's object store, which spills to disk."""
    blocks = []
    while block := list(islice(lines, block_size)):
        blocks.append(ray.put(pd.DataFrame({"line": pd.Series(block, dtype=object)})))
    if not blocks:
        return
    context = ray.data.DataContext.get_current()
    shows_progress = context.enable_progress_bars
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        dataset = ray.data.from_pandas_refs(blocks)
        answered = _answered(dataset, make, min(workers, len(blocks)), resources, block_size)
        batches = answered.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
        for batch in batches:
            yield from zip(map(int, batch["index"]), map(json.loads, batch["row"]))
    finally:
        context.enable_progress_bars = shows_progress


def _answered(
    dataset: Any,
    make: Callable[[], Any],
    workers: int,
    resources: dict[str, float],
    block_size: int,
) -> Any:
    """The dataset of replies to a dataset of lines, computed by actors when it is read.

    The batch size is given since Ray Data requires one with `num_gpus`; a batch is a block. How
    often an actor may die has no named argument before Ray 2.64, the end of our range, so the
    warning that `ray_remote_args` is deprecated helps nobody.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return dataset.map_batches(
            BatchActor,
            fn_constructor_args=(make,),
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=block_size,
            batch_format="numpy",
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
            **resources,
        )


def _last_line(error: Exception) -> str:
    """The last line of an error that may contain a whole traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
