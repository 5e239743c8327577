"""Batches on a Ray cluster on this machine: the rows of one process, in order, also where a worker
is killed on the way.

Needs `pip install "creditdecoding[ray]"`; skipped without.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error::ray.util.annotations.RayDeprecationWarning"),
]

ray = pytest.importorskip("ray", reason="ray is missing: pip install 'creditdecoding[ray]'")

from creditdecoding.batch.input import Line  # noqa: E402
from creditdecoding.batch.job import run_job  # noqa: E402
from creditdecoding.batch.options import BatchConfig  # noqa: E402
from creditdecoding.batch.processor import BatchProcessor, Reply, make_processor  # noqa: E402
from creditdecoding.config import EngineConfig  # noqa: E402
from creditdecoding.errors import OptionError  # noqa: E402
from creditdecoding.integrations.ray import answer_on_ray  # noqa: E402
from creditdecoding.lm import load  # noqa: E402
from tests.batch.test_batch import PROMPTS, chat, counted, made  # noqa: E402
from tests.helpers.mortal_worker import MortalWorker  # noqa: E402

ENGINE = EngineConfig(batch_size=2, device="cpu", threads=1)
ON_GPUS = EngineConfig(batch_size=2, device="auto", threads=1)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # as `answer_on_ray` does where it starts Ray
    start_ray()
    yield
    ray.shutdown()


def start_ray(attempts: int = 3) -> None:
    """Ray gives its own processes 30 s to start, which are too few on a machine with much to do."""
    try:
        ray.init(
            num_cpus=2,
            num_gpus=2,  # resources of the scheduler; no device is needed
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 * 2**20,
        )
    except Exception:
        ray.shutdown()
        if attempts == 1:
            raise
        start_ray(attempts - 1)


def test_rows_are_those_of_one_process(tmp_path: Path) -> None:
    requests = [chat(f"r{i}", PROMPTS[i], temperature=0.5 * i, max_tokens=8) for i in range(3)]
    alone = made(tmp_path, *requests, "bad", out="alone.jsonl")
    run_job(alone, BatchProcessor(load("pocket"), alone.settings).answers, counted)
    planned = made(tmp_path, *requests, "bad")

    def answer(left: Iterable[Line]) -> Iterator[Reply]:
        make = partial(make_processor, planned.settings)
        return answer_on_ray(make, BatchConfig(ray=1), ENGINE, left)

    run_job(planned, answer, counted)
    assert planned.output_path.read_bytes() == alone.output_path.read_bytes()


def test_a_killed_worker_costs_no_row_and_none_comes_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And each worker gets a GPU of its own where the cluster has any."""
    make = partial(MortalWorker, tmp_path)
    replies = list(answer_on_ray(make, BatchConfig(ray=2), ON_GPUS, list(range(41))))
    assert (tmp_path / "dead").exists()
    assert sorted(index for index, _ in replies) == list(range(41))
    assert "53727" not in capfd.readouterr().err, "Ray's core warns of actors that may restart"
    gpus = {row["process"]: row["gpus"] for _, row in replies}
    assert all(len(numbers) == 1 for numbers in gpus.values())
    assert len({numbers[0] for numbers in gpus.values()}) == 2


@pytest.mark.parametrize(("engine", "kind"), [(ENGINE, "CPUs.*2"), (ON_GPUS, "GPUs.*2")])
def test_more_workers_than_places_are_refused(engine: EngineConfig, kind: str) -> None:
    with pytest.raises(OptionError, match=rf"too few {kind} workers"):
        next(answer_on_ray(lambda: None, BatchConfig(ray=3), engine, []))


def test_lines_that_are_all_answered_start_no_worker() -> None:
    assert list(answer_on_ray(lambda: None, BatchConfig(ray=1), ENGINE, [])) == []
