"""Finds a checkpoint (a folder, the embedded model's name, or a hub id, downloaded without any
code) and the weight files in it.

A download that broke off goes on with the files that are not there yet; that all are there, whole
and what they should be is never taken
on trust.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from creditdecoding.errors import CheckpointError, OptionError

BUNDLED = {"pocket": Path(__file__).parent / "assets" / "pocket"}
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
MAX_TEXT_BYTES = 2**28
"""Bytes of a text file of a checkpoint at most; the longest that are released have some ten
million.
"""

_SHARD = re.compile(r"[^/\\:\0\s]+\.safetensors")
_NUMBERED = re.compile(r"(.+)-([0-9]+)-of-([0-9]+)\.safetensors")
_POINTER = b"version https://git-lfs"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")

# One slash, and around it letters, digits, - _ and . but no - or . at an end.
_HUB_ID = re.compile(r"\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)

# The hub client's errors, the nearest first: what to tell the caller, and the way out.
_HUB: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...] = (
    (
        GatedRepoError,
        "the hub gives this checkpoint only to accounts that accepted its terms",
        "Accept them on its page, then run: hf auth login.",
    ),
    (
        RevisionNotFoundError,
        "the hub has no such revision of this checkpoint",
        "Give a branch, a tag or a commit of it, or leave the revision out.",
    ),
    (
        RepositoryNotFoundError,
        "the hub has no such checkpoint, or it is private",
        "Check the id; for a private one run: hf auth login.",
    ),
)
_ABSENT = (LocalEntryNotFoundError, OfflineModeIsEnabled)


def resolve_checkpoint(
    name: str, revision: str | None = None, offline: bool = False, cache_dir: str | None = None
) -> Path:
    """The folder of the checkpoint `name`. Raises `CheckpointError`, or `OptionError` for a
    revision of what has none.

    `revision`, `offline` (only what is downloaded already) and `cache_dir` (where downloads lie, by
    default the hub's own
    cache) are for hub ids.
    """
    folder = BUNDLED[name] if name in BUNDLED else _local(name)
    if folder is not None:
        if revision is not None:
            raise OptionError(
                "only a hub id has revisions",
                given=f"{name} at {revision}",
                hint="Leave the revision out.",
            )
    else:
        folder = _fetch(name, revision, offline, cache_dir)
    _refuse_pointers(folder)
    return folder


def _local(name: str) -> Path | None:
    """The folder that a name stands for; None where it can only be a hub id. Raises
    `CheckpointError` for a path that leads nowhere.
    """
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        parent = folder.parent
        is_path = not _HUB_ID.fullmatch(name) or parent.is_dir() or folder.exists()
        is_file = folder.is_file()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ):  # a name too long, a home that nobody has, a zero byte
        is_path, is_file = True, False
    if not is_path:
        return None
    shown = name if len(name) <= 200 else f"{name[:200]}..."
    if is_file:
        what, hint = "this is a file", "Give the folder that it is in."
    elif _HUB_ID.fullmatch(name):
        what, hint = (
            "no such checkpoint: there is no such folder",
            "Check the path; to take a hub id of this name, run it in another folder.",
        )
    elif "/" in name or "\\" in name:
        what, hint = "no such checkpoint: there is no such folder", "Check the path."
    else:
        what, hint = "no such checkpoint", "Check the path."
    raise CheckpointError(
        what, given=shown, allowed="a folder, a hub id like org/name, or pocket", hint=hint
    )


def _fetch(name: str, revision: str | None, offline: bool, cache_dir: str | None) -> Path:
    try:
        with _bars_on_a_terminal_only():
            found = snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=offline,
                allow_patterns=_FILES,
                ignore_patterns=["*/*"],
            )
        return Path(found)
    except Exception as error:  # the hub client lets its HTTP library's own errors through
        given = name if revision is None else f"{name} at {revision}"
        for kind, what, hint in _HUB:
            if isinstance(error, kind):
                raise CheckpointError(what, given=given, hint=hint) from error
        if isinstance(error, _ABSENT) and (offline or isinstance(error, OfflineModeIsEnabled)):
            raise CheckpointError(
                "offline, and not all of this checkpoint is in the cache",
                given=given,
                hint="Load it once without offline, or give the cache_dir or the folder where it is.",
            ) from error
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise CheckpointError(
            f"the hub did not give it ({reason})",
            given=given,
            hint="Check the id and the network and try again: whole files are kept. Or download it elsewhere and give the folder.",
        ) from error


@contextmanager
def _bars_on_a_terminal_only() -> Iterator[None]:
    """Keep the client's progress bars out of logs."""
    hush = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hush:
        disable_progress_bars()
    try:
        yield
    finally:
        if hush:
            enable_progress_bars()


def _refuse_pointers(folder: Path) -> None:
    """Files that git-lfs would fetch but did not."""
    for path in sorted(folder.glob("*.*")):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(_POINTER):
            raise CheckpointError(
                f"{path.name} is a git-lfs pointer, not the file",
                given=str(folder),
                hint="Run in the folder: git lfs pull.",
            )


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, named by its index or the only ones there. Raises
    `CheckpointError`.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = _indexed(index)
        missing = [name for name in names if not (folder / name).is_file()]
        _refuse_missing(folder, missing, "weight files that the index names are missing")
        return [folder / name for name in names]
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if not found:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_WEIGHTS)
        raise CheckpointError(
            f"no .safetensors file in the checkpoint{f', only {others[0]}' if others else ''}",
            given=str(folder),
            hint="Only safetensors weights are read: use such a release, or write one with save_pretrained."
            if others
            else "Put the weights beside config.json.",
        )
    _refuse_missing(folder, _gaps({path.name for path in found}), "weight files are missing")
    return found


def _indexed(index: Path) -> list[str]:
    """The files that an index names, each a plain name beside it. Raises `CheckpointError`."""
    folder = str(index.parent)
    table = read_json(index).get("weight_map")
    if (
        not isinstance(table, dict)
        or not table
        or not all(isinstance(name, str) for name in table.values())
    ):
        raise CheckpointError(
            f"{index.name} has no weight_map of file names",
            given=folder,
            hint="Download the file again.",
        )
    names = sorted(set(table.values()))
    outside = next((name for name in names if not _SHARD.fullmatch(name)), None)
    if outside is not None:
        allowed = "plain names of .safetensors files beside it"
        hint = "Do not trust this checkpoint, or correct the index."
        raise CheckpointError(
            f"{index.name} names a file elsewhere", given=outside[:100], allowed=allowed, hint=hint
        )
    return names


def _gaps(there: Set[str]) -> list[str]:
    """The first file that is missing of each series NAME-00001-of-00003, and how many more are;
    work goes with the files there are.
    """
    series: dict[tuple[str, str], set[int]] = {}
    for name in there:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            series.setdefault((match[1], match[3]), set()).add(int(match[2]))
    missing = []
    for (stem, count), numbers in sorted(series.items()):
        first = next(i for i in range(1, len(numbers) + 2) if i not in numbers)
        if first <= int(count):
            missing.append(f"{stem}-{first:0{len(count)}d}-of-{count}.safetensors")
    return missing


def _refuse_missing(folder: Path, missing: Sequence[str], what: str) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            what,
            given=f"{missing[0]}{more} in {folder}",
            hint="Download the checkpoint again; what is there already is not loaded twice.",
        )


def check_file(path: Path) -> None:
    """Refuse what is there under a file's name and is none (a folder, a pipe), and a file too long
    to be read whole.

    Raises `CheckpointError`.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(
            f"{path.name} is not a file", given=str(path), hint="Download the file again."
        )
    if path.exists() and path.stat().st_size > MAX_TEXT_BYTES:
        size, allowed = path.stat().st_size, f"at most {MAX_TEXT_BYTES} bytes"
        raise CheckpointError(
            f"{path.name} is too long", given=size, allowed=allowed, hint="Download the file again."
        )


def read_text(path: Path) -> str:
    """A text file of a checkpoint. Raises `CheckpointError`."""
    check_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no {path.name} in the checkpoint",
            given=str(path.parent),
            hint="Give the folder that holds config.json.",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read ({error})",
            given=str(path),
            hint="Download the file again.",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `CheckpointError`."""
    try:
        found = json.loads(read_text(path))
    except RecursionError as error:
        raise CheckpointError(
            f"{path.name} is nested too deeply", given=str(path), hint="Download the file again."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not valid JSON ({error})",
            given=str(path),
            hint="Download the file again.",
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path.name} is not a JSON object", given=str(path), hint="Download the file again."
        )
    return found


def read_optional(path: Path) -> dict[str, Any]:
    """As `read_json`, but a file that is not there is an empty object."""
    return read_json(path) if path.exists() else {}
