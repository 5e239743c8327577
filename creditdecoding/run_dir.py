"""A run's folder: what was asked for, and every sample as a line, so that a run that was killed
goes on where it stopped.

`manifest.json` holds the settings; other settings in the same folder are refused, but decoders may
be added to it. While a run is
under way each process appends to a file of its own, `samples.K.jsonl`, one write a line; a last
line that was torn off is dropped,
a line that is there twice counts once. A finished run has one `samples.jsonl` in the order of the
plan.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

KEY = ("split", "template", "decoder", "family", "item")
"""The fields of a sample that tell it from all others of a run."""
NOT_REPRODUCIBLE = ("seconds",)
"""The fields that differ between two runs of the same settings."""

EXTENDABLE = "decoders"
"""The entry of a manifest, a list, to which a later run may add: no sample depends on which others
there are.
"""

NEWER = ("behaviour",)
"""Entries that manifests of earlier versions lack: one without them is not held to them."""

Key = tuple[Any, ...]


def record_key(record: Mapping[str, Any], names: Sequence[str] = KEY) -> Key:
    """What identifies a sample."""
    return tuple(record[name] for name in names)


@contextmanager
def locked_file(path: Path, hint: str) -> Iterator[Any]:
    """A file to append to, unbuffered, made if it is not there. Raises `OptionError`, with `hint`
    where another run has it at the same time.
    """
    try:
        file = open(path, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise OptionError(
            f"cannot be used ({error.strerror})", given=str(path), hint="Choose another output."
        ) from error
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
def open_run(
    folder: Path, manifest: Mapping[str, Any], extendable: str = EXTENDABLE
) -> Iterator[None]:
    """Make or take up a run's folder for the time of the body. Raises `OptionError` where it is
    another run's or in use.

    `grows` is the entry of the manifest, a list, to which a later run may add.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"cannot use the folder ({error.strerror})",
            given=str(folder),
            hint="Choose another output.",
        ) from error
    with locked_file(folder / ".lock", "Wait for it, or choose another --out."):
        _agree(folder, json.loads(json.dumps(manifest)), extendable)
        yield


def _agree(folder: Path, manifest: Mapping[str, Any], grows: str) -> None:
    """Write the manifest, or hold it to the one that is there."""
    path = folder / "manifest.json"
    if not path.exists():
        if _files(folder):
            raise OptionError(
                "there are samples without a manifest",
                given=str(folder),
                hint="Choose another output.",
            )
        write_atomically(path, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        free = {grows, *(name for name in NEWER if name not in found)}
        differ = [
            name
            for name in {**manifest, **found}
            if name not in free and manifest.get(name) != found.get(name)
        ]
        known = [*found.get(grows, [])]
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(
            f"the manifest cannot be read ({error})", given=str(path), hint="Choose another output."
        ) from error
    if differ:
        shown = "; ".join(
            change
            for name in differ
            for change in setting_differences(name, found.get(name), manifest.get(name))
        )
        raise OptionError(
            f"this folder holds a run with other settings ({shown})",
            given=str(folder),
            hint="Give the same settings, choose another output, or delete the folder to begin anew.",
        )
    added = [entry for entry in manifest.get(grows, []) if entry not in known]
    if added:
        write_atomically(
            path, json.dumps({**found, grows: known + added}, indent=1, ensure_ascii=False) + "\n"
        )


def setting_differences(name: str, there: Any, here: Any) -> Iterator[str]:
    """What differs between a setting of the run that is there and the same one of this run, entry
    by entry of nested settings.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for inner in dict.fromkeys((*there, *here)):
            if there.get(inner) != here.get(inner):
                yield from setting_differences(f"{name}.{inner}", there.get(inner), here.get(inner))
    else:
        yield f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_records(folder: Path, names: Sequence[str] = KEY) -> dict[Key, dict[str, Any]]:
    """All samples written so far by what identifies them, the values of `names`; torn last lines
    are cut off the files. Raises `OptionError`.
    """
    found: dict[Key, dict[str, Any]] = {}
    for path in _files(folder):
        for number, (_, line) in enumerate(complete_lines(path)):
            try:
                record = json.loads(line)
                found.setdefault(record_key(record, names), record)
            except (ValueError, KeyError, TypeError) as error:
                raise OptionError(
                    f"line {number + 1} of {path.name} is not a sample",
                    given=str(folder),
                    hint="Take the line out, or choose another --out.",
                ) from error
    return found


def complete_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every line and the byte it begins at; a last one that was torn off is cut off the file."""
    at = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return os.truncate(path, at)
            yield at, line[:-1]
            at += len(line)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("samples*.jsonl"))


@contextmanager
def record_writer(folder: Path, number: int) -> Iterator[Any]:
    """A function that appends a record to the file of process `number`, whole and at once. It
    raises `OptionError` where the disk refuses.
    """
    path = folder / f"samples.{number}.jsonl"
    with open(path, "ab", buffering=0) as file:
        yield lambda record: append_bytes(file, json_line(record), path)
        os.fsync(file.fileno())


def append_bytes(file: RawIOBase, data: bytes, path: Path) -> None:
    """Append all of `data`; what a full disk cuts off is dropped when the run goes on. Raises
    `OptionError`.
    """
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) or 0 :]
    except OSError as error:
        hint = "Make room, or check the folder; run the command again, it goes on where it stopped."
        raise OptionError(
            f"the disk refused ({error.strerror})", given=str(path), hint=hint
        ) from error


def finalize(folder: Path, records: Mapping[Key, Mapping[str, Any]], order: Sequence[Key]) -> None:
    """Put all samples into one file, these in this order and then those of decoders not asked for;
    take the files of the processes away.
    """
    data = b"".join(json_line(records[each]) for each in dict.fromkeys((*order, *records)))
    path = folder / "samples.jsonl"
    if not path.exists() or path.read_bytes() != data:
        write_atomically(path, data.decode())
    for other in _files(folder):
        if other != path:
            other.unlink()


def delete_run(folder: Path) -> None:
    """Take a run's folder away, samples first: what a kill leaves of it is no run, or one that
    begins anew.
    """
    for path in _files(folder):
        path.unlink()
    shutil.rmtree(folder)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    write_parts_atomically(path, [text.encode()])


def write_parts_atomically(path: Path, parts: Iterable[bytes]) -> None:
    """`replace` for what is too large to be held at once."""
    new = path.with_name(f".{path.name}.new")
    try:
        with open(new, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def json_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
