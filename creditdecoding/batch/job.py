"""A batch as a run that can be killed at any time and resumed.

Answers are appended to a journal next to the output as they come, and written in the order of the
lines at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from creditdecoding import run_dir
from creditdecoding.batch.input import Line, read_lines, scan_input
from creditdecoding.batch.options import BatchConfig
from creditdecoding.batch.processor import BatchSettings, Reply
from creditdecoding.config import EngineConfig, ServeConfig
from creditdecoding.errors import CreditError, OptionError, os_errors
from creditdecoding.fingerprint import model_digest
from creditdecoding.server.decoder_files import folder_digests
from creditdecoding.wording import count

UNRECORDED_OPTIONS = (
    *("threads", "batch_size", "max_num_batched_tokens", "prefix_cache"),
    *("offline", "cache_dir", "compile"),
)
"""Engine options that may change when a run is resumed: they change which requests share a pass,
not the answers.
"""

MISSING = -1


@dataclass(frozen=True)
class BatchJob:
    """A batch: its input and output, what identifies it, and its number of lines."""

    input_path: Path
    output_path: Path
    settings: BatchSettings
    manifest: Mapping[str, Any]
    count: int

    @property
    def run_dir(self) -> Path:
        """The folder of an unfinished run."""
        return self.output_path.with_name(f"{self.output_path.name}.partial")

    @property
    def journal_path(self) -> Path:
        """The answers of an unfinished run, in the order they came."""
        return self.run_dir / "samples.0.jsonl"

    @property
    def done(self) -> bool:
        """Whether the output is complete. Raises `OptionError` if it belongs to another run."""
        if not self.output_path.exists():
            return False
        with _disk_errors(self.output_path), open(self.output_path, "rb") as file:
            count = 0
            same_run = True
            for index, line in enumerate(file):
                same_run = same_run and _row_id(line) == self.settings.row_id(index)
                count += 1
        if same_run and count == self.count:
            return True
        raise OptionError(
            "the output exists already and belongs to another run",
            given=str(self.output_path),
            hint="Choose another, or delete it first.",
        )


@dataclass(frozen=True)
class BatchSummary:
    """Counts of a finished run: requests, those without an answer, forward passes and tokens of the
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
    """Scan the input and describe the run.

    Raises `OptionError` for files that cannot be used and custom_ids that repeat.
    """
    out = out.resolve()
    _check_output(source, out)
    scan = scan_input(source, batch.max_line)
    name = batch.name or (Path(model).resolve().name if Path(model).is_dir() else model)
    manifest = {
        "input": scan.digest,
        "checkpoint": model_digest(model, engine),
        "name": name,
        "max_line": batch.max_line,
        **_sources(batch.decoder_files),
        **_recorded_options(engine),
    }
    settings = BatchSettings(
        model=model,
        name=name,
        engine=engine,
        serve=serve,
        run_id=hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest(),
        created=int(source.stat().st_mtime),
        max_line=batch.max_line,
        decoder_files=batch.decoder_files and str(Path(batch.decoder_files).resolve()),
    )
    return BatchJob(source, out, settings, manifest, scan.count)


def _sources(folder: str | None) -> dict[str, Any]:
    digests = folder_digests(folder)
    return {"decoder_files": digests} if digests else {}


def _recorded_options(engine: EngineConfig) -> dict[str, Any]:
    options = dataclasses.asdict(engine)
    return {name: value for name, value in options.items() if name not in UNRECORDED_OPTIONS}


def _check_output(source: Path, out: Path) -> None:
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


def run_job(
    job: BatchJob,
    answer: Callable[[Iterable[Line]], Iterator[Reply]],
    start: Callable[[int, int], Callable[[], None]],
) -> BatchSummary:
    """Answer the lines that have no answer yet, and write the output.

    `start` gets the number of answered lines and of all lines; what it returns is called for each
    answer. Raises `OptionError` where the journal is in use or another run's, `CreditError` if
    lines remain unanswered.
    """
    with _disk_errors(job.run_dir):
        with run_dir.open_journal(job.run_dir, job.manifest, ("line",)) as journal:
            offsets = _read_offsets(job)
            on_answer = start(sum(offset != MISSING for offset in offsets), job.count)
            with journal.writer() as append:
                for index, row in answer(_unanswered(job, offsets)):
                    if offsets[index] == MISSING:  # a retry on Ray may answer a line twice
                        append({"line": index, "row": row})
                        offsets[index] = 0
                        on_answer()
            missing = offsets.count(MISSING)
            if missing:
                raise CreditError(
                    f"{count(missing, 'line was', 'lines were')} not answered",
                    hint="Run the command again; it continues where it stopped.",
                )
            summary = _write_output(job, _read_offsets(job))
        journal.delete()
    return summary


def cleanup(job: BatchJob) -> None:
    """Delete what is left of the journal of a finished run."""
    run_dir.Journal(job.run_dir, ("line",)).delete()


def _unanswered(job: BatchJob, offsets: array[int]) -> Iterator[Line]:
    lines = read_lines(job.input_path, job.settings.max_line)
    return (line for line in islice(lines, job.count) if offsets[line.index] == MISSING)


def _read_offsets(job: BatchJob) -> array[int]:
    """Where in the journal the answer to each line begins, or MISSING."""
    offsets = array("q", [MISSING]) * job.count
    if not job.journal_path.exists():
        return offsets
    for offset, line in run_dir.complete_lines(job.journal_path):
        try:
            index = json.loads(line)["line"]
            if offsets[index] == MISSING:
                offsets[index] = offset
        except (ValueError, LookupError, TypeError) as error:
            raise OptionError(
                "the journal has a line that is not of this run",
                given=str(job.journal_path),
                hint="Delete its folder.",
            ) from error
    return offsets


def _write_output(job: BatchJob, offsets: array[int]) -> BatchSummary:
    """Write the answers in the order of their lines, and count."""
    failed = nfe = tokens = 0

    def ordered_rows() -> Iterator[bytes]:
        nonlocal failed, nfe, tokens
        if not job.count:
            return
        with open(job.journal_path, "rb") as file:
            for offset in offsets:
                file.seek(offset)
                row = json.loads(file.readline())["row"]
                response = row["response"] or {"body": {}}
                usage = response["body"].get("usage")
                if usage is None:
                    failed += 1
                else:
                    nfe += usage["nfe"]
                    tokens += usage["completion_tokens"]
                yield run_dir.json_line(row)

    with run_dir.atomic_file(job.output_path) as file:
        file.writelines(ordered_rows())
    return BatchSummary(job.count, failed, nfe, tokens)


def _row_id(line: bytes) -> Any:
    try:
        return json.loads(line)["id"]
    except (ValueError, LookupError, TypeError):
        return None


def _disk_errors(path: Path) -> AbstractContextManager[None]:
    hint = "Make room, or check the folder. The same command continues where it stopped."
    return os_errors("the disk refused", path, hint)
