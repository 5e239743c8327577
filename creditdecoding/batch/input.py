"""The lines of a batch file: read a line at a time, never longer than allowed, held to OpenAI's
batch format.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.server.parse import BODY_TYPES

FIELDS = ("custom_id", "method", "url", "body")
FORMAT = 'Write {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}, one a line.'
SHOWN = 3  # custom_ids named in a complaint


@dataclass(frozen=True)
class Line:
    """Request `index` of a file, from its line `number` (counted from 1, blank lines too); of one
    that is too long only the beginning.
    """

    index: int
    number: int
    data: bytes


@dataclass(frozen=True)
class InputScan:
    """How many requests a file has, and a digest of its bytes."""

    count: int
    digest: str


def read_lines(path: Path, most: int) -> Iterator[Line]:
    """The lines that are not blank; of each no more than a few bytes beyond `most` are held."""
    number = index = 0
    enough = most + 5  # the end of a line and a byte order mark are not counted
    with open(path, "rb") as file:
        while piece := file.readline(enough):
            number += 1
            data = piece.removeprefix(codecs.BOM_UTF8) if number == 1 else piece
            longer = len(piece) == enough and not piece.endswith(b"\n")
            while len(piece) == enough and not piece.endswith(b"\n"):
                piece = file.readline(enough)
            data = data if longer else data.rstrip(b"\r\n")
            if longer or (data and not data.isspace()):
                yield Line(index, number, data)
                index += 1


def scan_input(path: Path, most: int) -> InputScan:
    """Look at every line before any is answered. Raises `OptionError` if the file cannot be read or
    two lines share a custom_id.
    """
    _regular(path)
    first: dict[bytes, int] = {}
    again: dict[str, list[int]] = {}
    count = 0
    for line in read_lines(path, most):
        count += 1
        name = _name(line, most)
        if name is None:
            continue
        before = first.setdefault(
            hashlib.blake2b(name.encode(), digest_size=16).digest(), line.number
        )
        if before != line.number:
            again.setdefault(name, [before]).append(line.number)
    if again:
        said = "; ".join(
            f"{name[:80]!r} in lines {', '.join(map(str, found[:9]))}"
            for name, found in [*again.items()][:SHOWN]
        )
        raise OptionError(
            f"{len(again)} custom_ids stand in more than one line",
            given=said,
            hint="Give every line a custom_id of its own.",
        )
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return InputScan(count, digest.hexdigest())


def parse_line(line: Line, most: int) -> Any:
    """The JSON of a line. Raises `OptionError`."""
    if len(line.data) > most:
        raise OptionError(
            f"line {line.number} is too long",
            allowed=f"{most} bytes",
            hint="Shorten it, or raise --max-line.",
        )
    try:
        return json.loads(line.data.decode())
    except UnicodeDecodeError as error:
        raise OptionError(
            f"line {line.number} is not UTF-8 (byte {error.start})", hint=FORMAT
        ) from error
    except (ValueError, RecursionError) as error:
        raise OptionError(
            f"line {line.number} is not JSON ({str(error).partition(':')[0]})", hint=FORMAT
        ) from error


def custom_id(value: Any) -> str | None:
    """The custom_id of a parsed line, None where there is none that can be written."""
    name = value.get("custom_id") if isinstance(value, dict) else None
    return (
        name
        if isinstance(name, str) and name and not any("\ud800" <= char <= "\udfff" for char in name)
        else None
    )


def parse_request(value: Any, line: Line) -> tuple[str, dict[str, Any]]:
    """Where a parsed line wants to go, and its body. Raises `OptionError`."""
    where = f"line {line.number}"
    if not isinstance(value, dict):
        raise OptionError(f"{where} is not a JSON object", hint=FORMAT)
    for name in value:
        if name not in FIELDS:
            raise unknown_name(f"field in {where}", name[:80], FIELDS)
    missing = [name for name in FIELDS if name not in value]
    if missing:
        raise OptionError(f"{where} has no {' and no '.join(missing)}", hint=FORMAT)
    if custom_id(value) is None:
        raise OptionError(f"{where}: custom_id is not a text of some characters", hint=FORMAT)
    if value["method"] != "POST":
        raise OptionError(
            f"{where}: unknown method", given=_shown(value["method"]), allowed="POST", hint=FORMAT
        )
    if not isinstance(value["url"], str) or value["url"] not in BODY_TYPES:
        raise OptionError(
            f"{where}: unknown url",
            given=_shown(value["url"]),
            allowed=", ".join(BODY_TYPES),
            hint="Take one of these.",
        )
    if not isinstance(value["body"], dict):
        raise OptionError(f"{where}: body is not a JSON object", hint=FORMAT)
    return value["url"], value["body"]


def _shown(value: Any) -> str:
    return str(value)[:80]


def _name(line: Line, most: int) -> str | None:
    try:
        return custom_id(parse_line(line, most))
    except OptionError:
        return None


def _regular(path: Path) -> None:
    try:
        if not path.is_file():
            raise OptionError(
                "there is no such file",
                given=str(path),
                hint="Give a file of requests, one a line.",
            )
        path.open("rb").close()
    except OSError as error:
        raise OptionError(
            f"the requests cannot be read ({error.strerror})",
            given=str(path),
            hint="Check the path.",
        ) from error
