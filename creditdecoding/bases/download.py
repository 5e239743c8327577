"""Downloads a file over HTTP: resumed where it stopped, and checked by SHA-256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from creditdecoding.errors import CheckpointError

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in all."""

CHUNK = 2**20
TIMEOUT = 20.0
"""Seconds without an answer after which a server counts as unreachable."""

_RANGE_NOT_SATISFIABLE = 416


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, path: Path, sha256: str, on_progress: Progress | None = None) -> None:
    """Write the file at `url` to `path`; a part of an earlier call is continued.

    A broken transfer is tried again as long as it brings something. Raises `OSError` if the server
    does not answer, and `CheckpointError` if the file is another than expected.
    """
    part = path.with_name(f"{path.name}.part")
    while True:
        before = _size(part)
        try:
            _transfer(url, part, before, on_progress)
            break
        except (OSError, HTTPException) as error:
            if _size(part) <= before or isinstance(error, HTTPError):
                raise OSError(_reason(error)) from error
    check_sha256(part, sha256)
    part.replace(path)


def check_sha256(path: Path, sha256: str) -> None:
    """Remove a file with another SHA-256 and raise `CheckpointError`."""
    actual = file_sha256(path)
    if actual != sha256:
        path.unlink()
        raise CheckpointError(
            f"{path.name.removesuffix('.part')} has changed or was damaged on the way: its SHA-256 "
            "is another",
            given=actual,
            allowed=sha256,
            hint="Try again; if it stays so, the file was replaced: do not use it.",
        )


def _transfer(url: str, part: Path, start: int, on_progress: Progress | None) -> None:
    """Append what is missing of `part`, or write all of it where the server knows no ranges."""
    headers = {"User-Agent": "creditdecoding"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE and start:
            return  # everything is there
        raise
    with response:
        done = start if getattr(response, "status", None) == 206 else 0
        total = _total(response, done)
        with open(part, "ab" if done else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, max(total, done))
    if done < total:
        raise OSError(f"the transfer ended at {done} of {total} bytes")


def _total(response: Any, done: int) -> int:
    """Bytes of the whole file; `done` if the server does not tell."""
    content_range = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers["Content-Range"] or "")
    if content_range is not None:
        return int(content_range[1])
    return done + int(response.headers["Content-Length"] or 0)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:150]
