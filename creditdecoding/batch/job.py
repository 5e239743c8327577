"""A batch as a run that can be killed at any time: rows are noted beside the output as they come,
and put in order at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from creditdecoding import run_dir as journal
from creditdecoding.batch.input import Line, read_lines, scan_input
from creditdecoding.batch.options import BatchConfig
from creditdecoding.batch.processor import BatchSettings, Reply
from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import CreditError, OptionError
from creditdecoding.fingerprint import checkpoint_digest

UNRECORDED_OPTIONS = ("threads", "batch_size", "offline", "cache_dir", "compile")
"""Engine options that a run may be taken up with differently: they change who shares a pass, not
what is asked.
"""


@dataclass(frozen=True)
class BatchJob:
    """A batch: where it reads and writes, what identifies it, how many rows it will have."""

    input_path: Path
    output_path: Path
    settings: BatchSettings
    manifest: Mapping[str, Any]
    count: int

    @property
    def run_dir(self) -> Path:
        """The folder of a run that is not finished."""
        return self.output_path.with_name(f"{self.output_path.name}.partial")

    @property
    def done(self) -> bool:
        """Whether the output is there. Raises `OptionError` if it is another run's."""
        if not self.output_path.exists():
            return False
        with _files(self.output_path), open(self.output_path, "rb") as file:
            if (
                self.count == sum(1 for _ in file)
                and not file.seek(0)
                and all(_id(line) == self.settings.id(i) for i, line in enumerate(file))
            ):
                return True
        raise OptionError(
            "the output is there already and belongs to another run",
            given=str(self.output_path),
            hint="Choose another, or delete it first.",
        )


@dataclass(frozen=True)
class BatchSummary:
    """What came out: rows, those of them without an answer, forward passes and tokens of the
    answers.
    """

    requests: int
    failed: int
    nfe: int
    tokens: int


def plan_job(
    source: Path,
    out: Path,
    model: str,
    batch: BatchConfig,
    engine: EngineConfig,
    serve: ServeConfig,
) -> BatchJob:
    """Look at the input and settle what the run is. Raises `OptionError` for files that cannot be
    used and custom_ids that repeat.
    """
    out = out.resolve()
    if (out.exists() and not out.is_file()) or not out.parent.is_dir():
        raise OptionError(
            "the output cannot be written there",
            given=str(out),
            hint="Give a file in a folder that exists.",
        )
    if out.exists() and source.exists() and out.samefile(source):
        raise OptionError(
            "input and output are the same file", given=str(source), hint="Choose another output."
        )
    found = scan_input(source, batch.max_line)
    name = batch.name or (Path(model).resolve().name if Path(model).is_dir() else model)
    options = {
        f.name: getattr(engine, f.name)
        for f in dataclasses.fields(engine)
        if f.name not in UNRECORDED_OPTIONS
    }
    checkpoint = checkpoint_digest(
        resolve_checkpoint(model, engine.revision, engine.offline, engine.cache_dir)
    )
    manifest = {
        "input": found.digest,
        "checkpoint": checkpoint,
        "name": name,
        "max_line": batch.max_line,
        **options,
    }
    run = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    setting = BatchSettings(
        model, name, engine, serve, run, int(source.stat().st_mtime), batch.max_line
    )
    return BatchJob(source, out, setting, manifest, found.count)


def run_job(
    plan: BatchJob,
    answer: Callable[[Iterable[Line]], Iterator[Reply]],
    start: Callable[[int, int], Callable[[], None]],
) -> BatchSummary:
    """Answer the lines that are not yet answered and write the output; `start` gets how many are
    done and how many there are, its result a
    call a row. Raises `OptionError` where the journal is another run's or in use, `CreditError` if
    a row is missing at the end.
    """
    with _files(plan.run_dir):
        with journal.open_run(plan.run_dir, plan.manifest):
            places = _found(plan)
            tick = start(sum(place >= 0 for place in places), plan.count)
            with journal.record_writer(plan.run_dir, 0) as note:
                left = (
                    line
                    for line in islice(
                        read_lines(plan.input_path, plan.settings.max_line), plan.count
                    )
                    if places[line.index] < 0
                )
                for index, row in answer(left):
                    if places[index] < 0:  # whoever answers twice is not written twice
                        note({"line": index, "row": row})
                        places[index] = 0
                        tick()
            if any(place < 0 for place in places):
                missing = sum(place < 0 for place in places)
                raise CreditError(
                    f"{missing} lines were not answered",
                    hint="Run the command again: it goes on where it stopped.",
                )
            tally = _settle(plan, _found(plan))
        shutil.rmtree(plan.run_dir)
    return tally


def cleanup(plan: BatchJob) -> None:
    """Take away what is left of the journal of a finished run."""
    shutil.rmtree(plan.run_dir, ignore_errors=True)


def _found(plan: BatchJob) -> array[int]:
    """Where in the journal the row of each line begins, -1 for those that are not there."""
    places = array("q", [-1]) * plan.count
    path = _noted(plan)
    for at, line in journal.complete_lines(path) if path.exists() else ():
        try:
            index = json.loads(line)["line"]
            if places[index] < 0:
                places[index] = at
        except (ValueError, LookupError, TypeError) as error:
            raise OptionError(
                "the journal holds a line that is not of this run",
                given=str(path),
                hint="Delete its folder.",
            ) from error
    return places


def _settle(plan: BatchJob, places: array[int]) -> BatchSummary:
    """Write the rows in the order of their lines."""
    counts = [0, 0, 0]

    def ordered() -> Iterator[bytes]:
        if not plan.count:
            return
        with open(_noted(plan), "rb") as file:
            for at in places:
                file.seek(at)
                row = json.loads(file.readline())["row"]
                usage = (row["response"] or {"body": {}})["body"].get("usage")
                for i, value in enumerate(
                    (usage is None, *((usage["nfe"], usage["completion_tokens"]) if usage else ()))
                ):
                    counts[i] += value
                yield journal.json_line(row)

    journal.write_parts_atomically(plan.output_path, ordered())
    return BatchSummary(plan.count, *counts)


def _noted(plan: BatchJob) -> Path:
    return plan.run_dir / "samples.0.jsonl"


def _id(line: bytes) -> Any:
    try:
        return json.loads(line)["id"]
    except (ValueError, LookupError, TypeError):
        return None


@contextmanager
def _files(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Make room, or check the folder; run the command again, it goes on where it stopped."
        raise OptionError(
            f"the disk refused ({error.strerror})", given=str(path), hint=hint
        ) from error
