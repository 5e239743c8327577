"""Folders of runs that survive a kill: the same command again continues where the run stopped.

Runs that collect records (answers, samples) use a journal:

    with open_journal(folder, settings, key=("decoder", "item")) as journal:
        records = journal.read()
        with journal.writer() as append:
            append({"decoder": "credit", "item": 3, "correct": True})
        journal.finalize(journal.read(), order)

`manifest.json` holds the settings. Each process appends to its own `samples.K.jsonl`, one write a
line; a torn last line is dropped and of duplicates the first counts. A finished run has one
`samples.jsonl`.

Training runs use `ResumableRun`: `state.pt`, replaced as a whole, and `log.jsonl`, cut to the saved
step. Either way a folder with other settings, or in use by another process, is refused.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import IO, Any

import torch

from creditdecoding.errors import OptionError, os_errors

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

EXTENDABLE = "decoders"
"""A list in the manifest to which a later run may add: no sample depends on its other entries."""

NEWER = ("behaviour",)
"""Entries that manifests of earlier versions lack; they are compared only where both have them."""

RUN_FILES = ("items.jsonl", "manifest.json", ".lock")
"""What a run keeps in its folder besides samples."""

SHOWN = 40
"""Characters of a setting that an error shows."""

Record = dict[str, Any]
Key = tuple[Any, ...]
Append = Callable[[Mapping[str, Any]], None]


# Locks


@contextmanager
def locked_file(path: Path, hint: str) -> Iterator[Any]:
    """Open `path` unbuffered for appending, created if absent, and hold a lock on it.

    Raises `OptionError`, with `hint` if another process holds the lock.
    """
    with os_errors("cannot be used", path, "Choose another output."):
        file = open(path, "ab", buffering=0)  # noqa: SIM115
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OptionError(
                    "another run is at work here", given=str(path), hint=hint
                ) from error
        yield file


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make `folder` and lock it for the time of the body. Raises `OptionError`."""
    with os_errors("cannot use the folder", folder, "Choose another output."):
        folder.mkdir(parents=True, exist_ok=True)
    with locked_file(folder / ".lock", "Wait for it, or choose another --out."):
        yield


# Settings


def check_settings(
    where: Path,
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    may_change: Iterable[str] = (),
) -> None:
    """Refuse to continue a run in `where` with other settings than it began with.

    Raises `OptionError` naming every setting that differs, apart from those that `may_change`.
    """
    saved, current = plain_json(saved), plain_json(current)
    ignored = set(may_change)
    differences = [
        difference
        for name in dict.fromkeys((*current, *saved))
        if name not in ignored
        for difference in setting_differences(name, saved.get(name), current.get(name))
    ]
    if differences:
        kind = "folder" if where.is_dir() else "file"
        raise OptionError(
            f"this {kind} holds a run with other settings ({'; '.join(differences)})",
            given=str(where),
            hint="Give the same settings, choose another output, "
            f"or delete the {kind} to start again.",
        )


def plain_json(value: Any) -> Any:
    """`value` as it comes back from a JSON file: tuples as lists, keys as strings."""
    return json.loads(json.dumps(value))


def setting_differences(name: str, saved: Any, current: Any) -> Iterator[str]:
    """What differs between the saved and the current value of a setting, entry by entry."""
    if saved == current:
        return
    if isinstance(saved, dict) and isinstance(current, dict):
        for inner in dict.fromkeys((*saved, *current)):
            yield from setting_differences(f"{name}.{inner}", saved.get(inner), current.get(inner))
    else:
        yield f"{name}: {_short_json(saved)} there, {_short_json(current)} here"


def _short_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


@contextmanager
def open_run(
    folder: Path, manifest: Mapping[str, Any], extendable: str = EXTENDABLE
) -> Iterator[None]:
    """Lock a run's folder, made if absent, for the time of the body, and check its manifest.

    `extendable` names a list in the manifest to which a later run may add. Raises `OptionError` if
    the folder is in use or holds a run with other settings.
    """
    with locked_folder(folder):
        _check_manifest(folder, plain_json(manifest), extendable)
        yield


def _check_manifest(folder: Path, manifest: Record, extendable: str) -> None:
    """Write the manifest, or compare it with the one that is there."""
    path = folder / "manifest.json"
    if not path.exists():
        if _sample_files(folder):
            raise OptionError(
                "there are samples without a manifest",
                given=str(folder),
                hint="Choose another output.",
            )
        write_atomically(path, _manifest_text(manifest))
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        entries = [*saved.get(extendable, [])]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise OptionError(
            f"the manifest cannot be read ({error})", given=str(path), hint="Choose another output."
        ) from error
    newer = [name for name in NEWER if name not in saved]
    check_settings(folder, saved, manifest, may_change=(extendable, *newer))
    added = [entry for entry in manifest.get(extendable, []) if entry not in entries]
    if added:
        write_atomically(path, _manifest_text({**saved, extendable: entries + added}))


def _manifest_text(manifest: Record) -> str:
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


# Journals


@dataclass(frozen=True)
class Journal:
    """The records of a run in `folder`, each identified by the values of its fields `key`.

    Further processes of a run make their own `Journal` to write; only the first one opens it.
    """

    folder: Path
    key: tuple[str, ...]

    def key_of(self, record: Mapping[str, Any]) -> Key:
        """The values that identify a record."""
        return record_key(record, self.key)

    def read(self) -> dict[Key, Record]:
        """All records written so far. Cuts torn last lines off the files. Raises `OptionError`."""
        records: dict[Key, Record] = {}
        for path in _sample_files(self.folder):
            for number, (_, line) in enumerate(complete_lines(path), 1):
                try:
                    record = json.loads(line)
                    records.setdefault(self.key_of(record), record)
                except (ValueError, KeyError, TypeError) as error:
                    raise OptionError(
                        f"line {number} of {path.name} is not a sample",
                        given=str(self.folder),
                        hint="Delete the line, or choose another --out.",
                    ) from error
        return records

    @contextmanager
    def writer(self, process: int = 0) -> Iterator[Append]:
        """A function that appends a record, whole, to the file of process number `process`.

        It raises `OptionError` if the disk refuses.
        """
        path = self.folder / f"samples.{process}.jsonl"
        with open(path, "ab", buffering=0) as file:
            yield lambda record: append_bytes(file, json_line(record), path)
            os.fsync(file.fileno())

    def finalize(self, records: Mapping[Key, Mapping[str, Any]], order: Sequence[Key]) -> None:
        """Merge the files into one: the records in this order, then those not in it."""
        data = b"".join(json_line(records[key]) for key in dict.fromkeys((*order, *records)))
        path = self.folder / "samples.jsonl"
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)
        for other in _sample_files(self.folder):
            if other != path:
                other.unlink()

    def delete(self) -> None:
        """Delete the files of the run, records first: what a kill leaves cannot be taken for a run.

        The folder goes too, unless it holds files that are not the run's.
        """
        for path in (*_sample_files(self.folder), *(self.folder / name for name in RUN_FILES)):
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


@contextmanager
def open_journal(
    folder: Path, settings: Mapping[str, Any], key: Sequence[str], extendable: str = EXTENDABLE
) -> Iterator[Journal]:
    """The journal in `folder`, locked, with its manifest checked as in `open_run`."""
    with open_run(folder, settings, extendable):
        yield Journal(folder, tuple(key))


def record_key(record: Mapping[str, Any], names: Sequence[str]) -> Key:
    """The values that identify a record."""
    return tuple(record[name] for name in names)


def _sample_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("samples*.jsonl"))


# Training runs


class ResumableRun:
    """The state file and the log of a training run.

    `settings` are saved with the state under `settings_key` and compared when the run continues,
    apart from those that `may_change`; None if a manifest holds them (`open_run`). `step_key` is
    the counter in states and log records.

        run = ResumableRun(folder, settings, may_change=("steps",))
        if state := run.load(device):
            model.load_state_dict(state["model"])
        run.cut_log(step)                           # drop what was logged after the saved step
        while step < steps:
            run.log({"step": step, "loss": loss})
            run.save({"step": step, "model": model.state_dict()})
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None,
        *,
        may_change: Sequence[str] = (),
        settings_key: str = "settings",
        step_key: str = "step",
    ) -> None:
        self.settings: Record | None = plain_json(settings)
        self.may_change = tuple(may_change)
        self.settings_key = settings_key
        self.step_key = step_key
        self.state_file = folder / "state.pt"
        self.log_file = folder / "log.jsonl"
        self.saved_step = 0

    def load(self, device: Any = "cpu") -> Record | None:
        """The saved state with its tensors on `device`; None for a new run.

        Raises `OptionError` if it cannot be read or was saved with other settings.
        """
        if not self.state_file.exists():
            return None
        try:
            state = torch.load(self.state_file, map_location=device, weights_only=True)
            step = int(state[self.step_key])
            saved_settings = None if self.settings is None else dict(state[self.settings_key])
        except (
            OSError,
            RuntimeError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            raise OptionError(
                "the state of this run cannot be read",
                given=str(self.state_file),
                hint="Delete it to start again, or choose another output.",
            ) from error
        if saved_settings is not None and self.settings is not None:
            check_settings(self.state_file, saved_settings, self.settings, self.may_change)
        self.saved_step = step
        return dict(state)

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state, which must hold `step_key`; a kill leaves the old or the new one."""
        settings = {} if self.settings is None else {self.settings_key: self.settings}
        with atomic_path(self.state_file) as path:  # of a file object Ctrl-C would be an error
            torch.save({**settings, **state}, path)
        self.saved_step = state[self.step_key]

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record to the log."""
        with self.log_file.open("ab") as file:
            file.write(json_line(record))

    def records(self) -> list[Record]:
        """The log by step. Of duplicates the last counts; a torn line is left out."""
        return read_log(self.log_file, self.step_key)

    def cut_log(self, end: int) -> None:
        """Drop the records of step `end` and later: they will be logged again."""
        if self.log_file.exists():
            kept = [record for record in self.records() if record[self.step_key] < end]
            write_atomically(self.log_file, b"".join(map(json_line, kept)))


def read_log(path: Path, step_key: str = "step") -> list[Record]:
    """As `ResumableRun.records`, for the log `path` alone; empty if there is none."""
    records: dict[int, Record] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            records[record[step_key]] = record
        except (ValueError, LookupError, TypeError):
            continue
    return [records[step] for step in sorted(records)]


# Files


def json_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def complete_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line of a file with the offset of its first byte; a torn last line is cut off."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                os.truncate(path, offset)
                return
            yield offset, line[:-1]
            offset += len(line)


def append_bytes(file: RawIOBase, data: bytes, path: Path) -> None:
    """Append all of `data`; what a full disk tears off is dropped when the run continues.

    Raises `OptionError`.
    """
    rest = memoryview(data)
    with os_errors(
        "the disk refused",
        path,
        "Make room or check the folder, then run the command again to continue.",
    ):
        while rest:
            rest = rest[file.write(rest) or 0 :]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to, whose file replaces `path` when the body ends.

    A kill leaves the old file or the new one.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        with open(new, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """`atomic_path`, opened to write bytes."""
    with atomic_path(path) as new, open(new, "wb") as file:
        yield file


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a whole file; a kill leaves the old or the new one."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: object) -> None:
    """Write a file of indented JSON; a kill leaves the old or the new one."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")
