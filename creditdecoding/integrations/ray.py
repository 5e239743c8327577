"""Lines of a batch spread over a Ray cluster through Ray Data: actors with a model and an engine
each, one a GPU where there are any.

    for index, row in spread(make, BatchConfig(ray=4), EngineConfig(), lines): ...

`make` is called once in every actor and gives an object whose `answers(lines)` yields (index, row);
it has to pickle. A block of lines whose
actor dies is answered by another.
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

try:
    import pandas as pd
    import ray
    import ray.data
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

PASSES = 2  # a block holds as many lines as this many full passes
DEATHS = 5  # of one actor, and tries of one block: whoever dies of a line dies again


class BatchActor:
    """One worker: whatever `make` gives, for the blocks that Ray Data sends here."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._desk = make()

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """The rows of a block of lines, as JSON beside their indices, in the order they were
        finished.
        """
        found = list(self._desk.answers(block["line"]))
        return {
            "index": np.array([index for index, _ in found]),
            "row": np.array([json.dumps(row) for _, row in found], dtype=object),
        }


def answer_on_ray(
    make: Callable[[], Any], options: BatchConfig, engine: EngineConfig, lines: Iterable[Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Replies as they come, in any order. Raises `OptionError` if the cluster has too few places,
    `CreditError` if it gives up.
    """
    mine = not ray.is_initialized()
    if mine:
        # Ray's core prints a warning for every actor that may restart (its issue 53727). What goes
        # wrong
        # comes back as an exception too.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            with _same_sigterm():
                ray.init(
                    address=options.address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    include_dashboard=False if options.address is None else None,
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OptionError(
                f"no Ray cluster ({_line(error)})",
                given=options.address,
                hint="Check --address, or start one: ray start.",
            ) from error
    try:
        yield from _replies(
            make, options, _places(options, engine), PASSES * engine.batch_size, iter(lines)
        )
    except ray.exceptions.RayError as error:
        raise CreditError(
            f"the Ray cluster gave up: {_line(error)}",
            hint="Run the command again: it goes on where it stopped.",
        ) from error
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """What SIGTERM does stays as it was: Ray puts a handler of its own in place."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _places(options: BatchConfig, engine: EngineConfig) -> dict[str, float]:
    """What one actor takes of the cluster. Raises `OptionError` where there is not that much for
    all of them.
    """
    there = ray.cluster_resources()
    kind = "GPU" if there.get("GPU") and engine.device != "cpu" else "CPU"
    if there.get(kind, 0) < options.ray:
        hint = "Ask for fewer workers with --ray, or let more machines join."
        raise OptionError(
            f"the Ray cluster has too few {kind}s",
            given=options.ray,
            allowed=f"{there.get(kind, 0):g} workers at most",
            hint=hint,
        )
    return {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}


def _replies(
    make: Callable[[], Any],
    options: BatchConfig,
    places: dict[str, float],
    size: int,
    lines: Iterator[Any],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines wait in Ray's object store, which spills to disk, and not in this process."""
    blocks = []
    while block := list(islice(lines, size)):
        blocks.append(ray.put(pd.DataFrame({"line": pd.Series(block, dtype=object)})))
    if not blocks:
        return
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        data = _answered(
            ray.data.from_pandas_refs(blocks), make, min(options.ray, len(blocks)), places
        )
        for found in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            yield from zip(map(int, found["index"]), map(json.loads, found["row"]))
    finally:
        context.enable_progress_bars = shown


def _answered(blocks: Any, make: Callable[[], Any], workers: int, places: dict[str, float]) -> Any:
    """A Ray dataset of the replies to blocks of lines, made by so many actors when it is read.

    How often an actor may die has no named argument before Ray 2.64, the end of our range, so its
    deprecation warning would be of no use to anybody.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return blocks.map_batches(
            BatchActor,
            fn_constructor_args=(make,),
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=None,
            batch_format="numpy",
            max_restarts=DEATHS,
            max_task_retries=DEATHS,
            **places,
        )


def _line(error: Exception) -> str:
    """The last line of an error that may hold a whole traceback."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
