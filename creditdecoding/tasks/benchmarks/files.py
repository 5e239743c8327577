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
"""Where a record stands, for messages, and what it says. A row of a csv file is {"file": its name,
"row": its cells}.
"""

KINDS = (".jsonl", ".json", ".csv", ".parquet")


def read(path: Path, member: Callable[[str], bool] = lambda name: True) -> Iterator[Record]:
    """Every record of a file, or of the files in a folder or zip whose names `member` accepts.
    Raises `OptionError` naming the line.
    """
    if path.is_dir():
        inside = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and _kind(file.name) and member(file.name)
        ]
        if not inside:
            raise OptionError(
                "no data file in the folder",
                given=str(path),
                allowed=", ".join(KINDS),
                hint="Give the folder of the released files.",
            )
        for file in inside:
            yield from _records(str(file), file.name, file.read_bytes())
    elif not path.is_file():
        raise OptionError(
            "no such file",
            given=str(path),
            hint="Check the path; without one the task loads from the hub.",
        )
    elif path.suffix == ".zip":
        yield from _zipped(path, member)
    elif not _kind(path.name):
        raise OptionError(
            "not a data file",
            given=str(path),
            allowed=", ".join((*KINDS, ".gz", ".zip", "a folder")),
            hint="Give a released file.",
        )
    else:
        yield from _records(str(path), path.name, path.read_bytes())


def fetch(repo: str, name: str) -> Path:
    """A file of a dataset on the hub, downloaded once. Raises `OptionError`."""
    try:
        return Path(hf_hub_download(repo, name, repo_type="dataset"))
    except Exception as error:  # the hub client lets its HTTP library's own errors through
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        what = f"the hub did not give the data set ({reason})"
        raise OptionError(
            what,
            given=f"{repo}: {name}",
            hint="Check the network, or give the file yourself: TASK=PATH.",
        ) from error


def digest(path: Path) -> str:
    """SHA-256 of a file, for reports."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kind(name: str) -> str | None:
    plain = name.removesuffix(".gz")
    return next((kind for kind in KINDS if plain.endswith(kind)), None)


def _zipped(path: Path, member: Callable[[str], bool]) -> Iterator[Record]:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [
                name
                for name in sorted(archive.namelist())
                if _kind(name) and member(Path(name).name) and not name.startswith("__MACOSX")
            ]
            if not inside:
                raise OptionError(
                    "no data file in the archive",
                    given=str(path),
                    allowed=", ".join(KINDS),
                    hint="Give the released archive.",
                )
            for name in inside:
                yield from _records(f"{path}/{name}", Path(name).name, archive.read(name))
    except (zipfile.BadZipFile, OSError) as error:
        raise OptionError(
            f"the archive cannot be read ({error})", given=str(path), hint="Download it again."
        ) from error


def _records(label: str, name: str, content: bytes) -> Iterator[Record]:
    kind = _kind(name)
    try:
        content = gzip.decompress(content) if name.endswith(".gz") else content
        if kind == ".parquet":
            yield from (
                (f"{label} row {number}", row)
                for number, row in enumerate(parquet.rows(content), 1)
            )
            return
        text = content.decode("utf-8-sig")
    except CreditError:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
    ) as error:  # ValueError: pyarrow's errors and bytes that are no UTF-8
        raise OptionError(
            f"the file cannot be read ({str(error)[:120]})", given=label, hint="Download it again."
        ) from error
    if kind == ".csv":
        yield from _csv(label, name, text)
    elif kind == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield (
                    f"{label} line {number}",
                    _object(_json(line, f"{label} line {number}"), f"{label} line {number}"),
                )
    else:
        found = _json(text, label)
        if isinstance(found, list):
            yield from (
                (f"{label} record {number}", _object(each, f"{label} record {number}"))
                for number, each in enumerate(found, 1)
            )
        else:
            yield label, _object(found, label)


def _csv(label: str, name: str, text: str) -> Iterator[Record]:
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


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise OptionError(
            f"not JSON ({error})", given=where, hint="Give a file as it was released."
        ) from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OptionError(
            "not a JSON object",
            given=where,
            allowed="one object a record",
            hint="Give a file as it was released.",
        )
    return value
