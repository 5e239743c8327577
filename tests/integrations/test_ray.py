"""Batches on a Ray cluster of two workers on this machine: the rows of one process, in order, also
where a worker is killed on the way.

Needs `pip install "creditdecoding[ray]"`; skipped without.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="ray is missing: pip install 'creditdecoding[ray]'")

from creditdecoding.batch.input import Line  # noqa: E402
from creditdecoding.batch.job import BatchJob, run_job  # noqa: E402
from creditdecoding.batch.options import BatchConfig  # noqa: E402
from creditdecoding.batch.processor import BatchProcessor, Reply, make_processor  # noqa: E402
from creditdecoding.config import EngineConfig  # noqa: E402
from creditdecoding.errors import OptionError  # noqa: E402
from creditdecoding.integrations.ray import answer_on_ray  # noqa: E402
from creditdecoding.lm import load  # noqa: E402
from tests.batch.test_batch import PROMPTS, chat, counted, made  # noqa: E402
from tests.helpers.gpu_reporter import GpuReporter  # noqa: E402

TWO, ENGINE = BatchConfig(ray=2), EngineConfig(batch_size=2, device="cpu", threads=1)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # as `answer_on_ray` does where it starts Ray
    ray.init(
        num_cpus=2,
        num_gpus=2,  # resources of the scheduler; no device is needed
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()


class Noting:
    """A processor that notes who answers which line, and dies once: at the first line of the
    victim's second block.
    """

    def __init__(self, make: Callable[[], BatchProcessor], folder: Path) -> None:
        self._processor, self._folder, self._blocks = make(), folder, 0

    def answers(self, block: Iterable[Line]) -> Iterator[Reply]:
        self._blocks += 1
        for index, row in self._processor.answers(block):
            with open(self._folder / "log", "a") as file:
                file.write(f"{os.getpid()} {index}\n")
            if self._blocks == 2 and not (self._folder / "dead").exists():
                (self._folder / "dead").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            yield index, row


def noting(planned: BatchJob) -> Noting:
    return Noting(partial(make_processor, planned.settings), planned.output_path.parent)


@pytest.mark.filterwarnings("error::ray.util.annotations.RayDeprecationWarning")
def test_a_killed_worker_costs_no_row_and_none_comes_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    requests = [chat(f"r{i}", PROMPTS[i % 5], temperature=0.5 * (i % 2)) for i in range(30)] + [
        "bad"
    ]
    alone = made(tmp_path, *requests, out="alone.jsonl")
    run_job(alone, BatchProcessor(load("pocket"), alone.settings).answers, counted)
    planned = made(tmp_path, *requests)
    replies: list[int] = []

    def answer(left: Iterable[Line]) -> Iterator[Reply]:
        for reply in answer_on_ray(partial(noting, planned), TWO, ENGINE, left):
            replies.append(reply[0])
            yield reply

    run_job(planned, answer, counted)
    assert sorted(replies) == list(range(31))
    assert planned.output_path.read_bytes() == alone.output_path.read_bytes()
    assert "53727" not in capfd.readouterr().err, "Ray's core warns of actors that may restart"
    workers = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert (tmp_path / "dead").read_text() in workers and len(workers) >= 2


def test_each_worker_gets_a_gpu_where_the_cluster_has_any() -> None:
    """Ray Data refuses `num_gpus` without a batch size."""
    engine = EngineConfig(batch_size=2, device="auto", threads=1)
    replies = dict(answer_on_ray(GpuReporter, TWO, engine, list(range(5))))
    assert sorted(replies) == list(range(5))
    gpus = {row["process"]: row["gpus"] for row in replies.values()}
    assert all(len(numbers) == 1 for numbers in gpus.values())
    assert len({numbers[0] for numbers in gpus.values()}) == len(gpus)
    with pytest.raises(OptionError, match=r"too few GPUs.*2 workers"):
        next(answer_on_ray(lambda: None, BatchConfig(ray=3), engine, []))


def test_more_workers_than_places_are_refused() -> None:
    with pytest.raises(OptionError, match=r"too few CPUs.*2 workers"):
        next(answer_on_ray(lambda: None, BatchConfig(ray=3), ENGINE, []))


def test_lines_that_are_all_answered_start_no_worker() -> None:
    assert list(answer_on_ray(lambda: None, TWO, ENGINE, [])) == []
