"""The lines of a batch file: read one at a time, bounded in length, in OpenAI's batch format."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.errors import OptionError, os_errors, unknown_name
from creditdecoding.server.parse import BODY_TYPES
from creditdecoding.wording import count

FIELDS = ("custom_id", "method", "url", "body")
FORMAT_HINT = (
    'Write {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}, '
    "one a line."
)
MAX_NAMED = 3
"""Repeated custom_ids that an error names."""
MAX_NAMED_LINES = 9


@dataclass(frozen=True)
class Line:
    """Request `index` of a file, on line `number` (from 1, blank lines counted). `data` of a line
    that is too long is only its beginning.
    """

    index: int
    number: int
    data: bytes


@dataclass(frozen=True)
class InputScan:
    """The number of requests in a file, and a digest of its bytes."""

    count: int
    digest: str


def read_lines(path: Path, max_bytes: int) -> Iterator[Line]:
    """The lines that are not blank. Of each, a few bytes more than `max_bytes` are held at most."""
    number = index = 0
    limit = max_bytes + 5  # line end and byte order mark do not count
    with open(path, "rb") as file:
        while piece := file.readline(limit):
            number += 1
            data = piece.removeprefix(codecs.BOM_UTF8) if number == 1 else piece
            too_long = len(piece) == limit and not piece.endswith(b"\n")
            while len(piece) == limit and not piece.endswith(b"\n"):
                piece = file.readline(limit)
            if not too_long:
                data = data.rstrip(b"\r\n")
            if too_long or data.strip():
                yield Line(index, number, data)
                index += 1


def scan_input(path: Path, max_bytes: int) -> InputScan:
    """Look at every line before any is answered.

    Raises `OptionError` if the file cannot be read or two lines have the same custom_id.
    """
    _check_readable(path)
    first_lines: dict[bytes, int] = {}
    repeated: dict[str, list[int]] = {}
    count = 0
    for line in read_lines(path, max_bytes):
        count += 1
        name = _custom_id_of(line, max_bytes)
        if name is None:
            continue
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        first = first_lines.setdefault(digest, line.number)
        if first != line.number:
            repeated.setdefault(name, [first]).append(line.number)
    if repeated:
        raise _repeated_error(repeated)
    with open(path, "rb") as file:
        return InputScan(count, _sha256(file))


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _repeated_error(repeated: dict[str, list[int]]) -> OptionError:
    named = []
    for name, numbers in list(repeated.items())[:MAX_NAMED]:
        lines = ", ".join(map(str, numbers[:MAX_NAMED_LINES]))
        named.append(f"{name[:80]!r} in lines {lines}")
    return OptionError(
        f"{count(len(repeated), 'custom_id is', 'custom_ids are')} in more than one line",
        given="; ".join(named),
        hint="Give every line a different custom_id.",
    )


def parse_line(line: Line, max_bytes: int) -> Any:
    """The JSON of a line. Raises `OptionError`."""
    if len(line.data) > max_bytes:
        raise OptionError(
            f"line {line.number} is too long",
            allowed=f"{max_bytes} bytes",
            hint="Shorten it, or raise --max-line.",
        )
    try:
        return json.loads(line.data.decode())
    except UnicodeDecodeError as error:
        reason = f"UTF-8 (byte {error.start})"
        raise OptionError(f"line {line.number} is not {reason}", hint=FORMAT_HINT) from error
    except (ValueError, RecursionError) as error:
        reason = f"JSON ({str(error).partition(':')[0]})"
        raise OptionError(f"line {line.number} is not {reason}", hint=FORMAT_HINT) from error


def custom_id(value: Any) -> str | None:
    """The custom_id of a parsed line; None if there is none that can be written as UTF-8."""
    name = value.get("custom_id") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        return None
    has_surrogate = any("\ud800" <= char <= "\udfff" for char in name)
    return None if has_surrogate else name


def parse_request(value: Any, line: Line) -> tuple[str, dict[str, Any]]:
    """URL and body of a parsed line. Raises `OptionError`."""
    where = f"line {line.number}"
    if not isinstance(value, dict):
        raise OptionError(f"{where} is not a JSON object", hint=FORMAT_HINT)
    for name in value:
        if name not in FIELDS:
            raise unknown_name(f"field in {where}", name[:80], FIELDS)
    missing = [name for name in FIELDS if name not in value]
    if missing:
        raise OptionError(f"{where} has no {' and no '.join(missing)}", hint=FORMAT_HINT)
    method, url, body = (value[name] for name in FIELDS[1:])
    if custom_id(value) is None:
        raise OptionError(f"{where}: custom_id is not a text of some characters", hint=FORMAT_HINT)
    if method != "POST":
        raise OptionError(
            f"{where}: unknown method", given=str(method)[:80], allowed="POST", hint=FORMAT_HINT
        )
    if not isinstance(url, str) or url not in BODY_TYPES:
        raise OptionError(
            f"{where}: unknown url",
            given=str(url)[:80],
            allowed=", ".join(BODY_TYPES),
            hint="Take one of these.",
        )
    if not isinstance(body, dict):
        raise OptionError(f"{where}: body is not a JSON object", hint=FORMAT_HINT)
    return url, body


def _custom_id_of(line: Line, max_bytes: int) -> str | None:
    try:
        return custom_id(parse_line(line, max_bytes))
    except OptionError:
        return None


def _check_readable(path: Path) -> None:
    with os_errors("the requests cannot be read", path, "Check the path."):
        if not path.is_file():
            raise OptionError(
                "there is no such file",
                given=str(path),
                hint="Give a file of requests, one a line.",
            )
        path.open("rb").close()
