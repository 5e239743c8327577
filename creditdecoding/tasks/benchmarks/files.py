"""Reads the records of released data files: jsonl, json, csv, parquet, each also gzipped, in a zip
or in a folder; or from the hub.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from creditdecoding.errors import CreditError, OptionError
from creditdecoding.tasks.benchmarks import parquet

Record = tuple[str, Mapping[str, Any]]
"""Where a record is, for error messages, and its fields. A row of a csv file is {"file": its name,
"row": its cells}.
"""

KINDS = (".jsonl", ".json", ".csv", ".parquet")
_AS_RELEASED = "Give a file as it was released."


def read(path: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Record]:
    """Every record of a file, or of the files in a folder or zip whose names `is_wanted` accepts.
    Raises `OptionError` naming the line.
    """
    if path.is_dir():
        return _in_folder(path, is_wanted)
    if not path.is_file():
        raise OptionError(
            "no such file",
            given=str(path),
            hint="Check the path; without one the task loads from the hub.",
        )
    if path.suffix == ".zip":
        return _in_zip(path, is_wanted)
    if _kind(path.name):
        return _records(str(path), path.name, path.read_bytes())
    raise OptionError(
        "not a data file",
        given=str(path),
        allowed=", ".join((*KINDS, ".gz", ".zip", "a folder")),
        hint="Give a released file.",
    )


def fetch(repo: str, name: str) -> Path:
    """A file of a dataset on the hub, downloaded once. Raises `OptionError`."""
    try:
        return Path(hf_hub_download(repo, name, repo_type="dataset"))
    except Exception as error:  # the hub client raises its HTTP library's own errors, too
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        raise OptionError(
            f"the hub did not give the data set ({reason})",
            given=f"{repo}: {name}",
            hint="Check the network, or give the file yourself: TASK=PATH.",
        ) from error


def digest(path: Path) -> str:
    """SHA-256 of a file, for reports."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kind(name: str) -> str | None:
    """Which of `KINDS` a file is by its name; None for another."""
    plain = name.removesuffix(".gz")
    return next((kind for kind in KINDS if plain.endswith(kind)), None)


def data_files(folder: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> list[Path]:
    """The data files in a folder and below it whose names `is_wanted` accepts. Raises
    `OptionError` if there is none.
    """
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    names = [file for file in files if _kind(file.name) and is_wanted(file.name)]
    if not names:
        raise _no_data_file("folder", folder, "Give the folder of the released files.")
    return names


def _in_folder(folder: Path, is_wanted: Callable[[str], bool]) -> Iterator[Record]:
    for file in data_files(folder, is_wanted):
        yield from _records(str(file), file.name, file.read_bytes())


def _in_zip(path: Path, is_wanted: Callable[[str], bool]) -> Iterator[Record]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in sorted(archive.namelist()) if not name.startswith("__MACOSX")]
            members = [name for name in names if _kind(name) and is_wanted(Path(name).name)]
            if not members:
                raise _no_data_file("archive", path, "Give the released archive.")
            for name in members:
                yield from _records(f"{path}/{name}", Path(name).name, archive.read(name))
    except (zipfile.BadZipFile, OSError) as error:
        raise OptionError(
            f"the archive cannot be read ({error})", given=str(path), hint="Download it again."
        ) from error


def _no_data_file(container: str, path: Path, hint: str) -> OptionError:
    return OptionError(
        f"no data file in the {container}", given=str(path), allowed=", ".join(KINDS), hint=hint
    )


def _records(label: str, name: str, content: bytes) -> Iterator[Record]:
    """The records of a file called `name` with this content; `label` is for error messages."""
    kind = _kind(name)
    try:
        content = gzip.decompress(content) if name.endswith(".gz") else content
        if kind == ".parquet":
            for number, row in enumerate(parquet.rows(content), 1):
                yield f"{label} row {number}", row
            return
        text = content.decode("utf-8-sig")
    except CreditError:
        raise
    except (ValueError, OSError, EOFError) as error:  # ValueError: pyarrow's, or not UTF-8
        raise OptionError(
            f"the file cannot be read ({str(error)[:120]})", given=label, hint="Download it again."
        ) from error
    if kind == ".csv":
        yield from _csv_records(label, name, text)
        return
    values = _jsonl_values(label, text) if kind == ".jsonl" else _json_values(label, text)
    for location, value in values:
        yield location, _object(value, location)


def _csv_records(label: str, name: str, text: str) -> Iterator[Record]:
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in rows:
            if row:
                yield f"{label} line {rows.line_num}", {"file": name, "row": row}
    except csv.Error as error:
        raise OptionError(
            f"not a csv file ({error})",
            given=f"{label} line {rows.line_num}",
            hint="Give a released file.",
        ) from error


def _jsonl_values(label: str, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            location = f"{label} line {number}"
            yield location, _parse_json(line, location)


def _json_values(label: str, text: str) -> Iterator[tuple[str, Any]]:
    value = _parse_json(text, label)
    if not isinstance(value, list):
        yield label, value
        return
    for number, entry in enumerate(value, 1):
        yield f"{label} record {number}", entry


def _parse_json(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise OptionError(f"not JSON ({error})", given=location, hint=_AS_RELEASED) from error


def _object(value: Any, location: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(
            "not a JSON object", given=location, allowed="one object a record", hint=_AS_RELEASED
        )
    return value
