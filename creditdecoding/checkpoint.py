"""Finds a checkpoint (a folder, the embedded model's name, or a hub id, downloaded without any code) and the weight files in it.

A download that broke off goes on with the files that are not there yet; that all are there, whole and what they should be is never taken
on trust. Leaves to others: what the files mean (models/, tokenizer.py).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from creditdecoding.errors import CheckpointError, OptionError

EMBEDDED = {"pocket": Path(__file__).parent / "assets" / "pocket"}
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
_POINTER = b"version https://git-lfs"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")

# The hub client's errors, the nearest first: what to tell the caller, and the way out.
_HUB: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...] = (
    (GatedRepoError, "the hub gives this checkpoint only to accounts that accepted its terms", "Accept them on its page, then run: hf auth login."),
    (RevisionNotFoundError, "the hub has no such revision of this checkpoint", "Give a branch, a tag or a commit of it, or leave the revision out."),
    (RepositoryNotFoundError, "the hub has no such checkpoint, or it is private", "Check the id; for a private one run: hf auth login."),
)
_ABSENT = (LocalEntryNotFoundError, OfflineModeIsEnabled)


def locate(name: str, revision: str | None = None, offline: bool = False, cache_dir: str | None = None) -> Path:
    """The folder of the checkpoint `name`. Raises `CheckpointError`, or `OptionError` for a revision of what has none.

    `revision`, `offline` (only what is downloaded already) and `cache_dir` (where downloads lie, by default the hub's own
    cache) are for hub ids.
    """
    folder = EMBEDDED.get(name, Path(name).expanduser())
    if folder.is_dir():
        if revision is not None:
            raise OptionError("only a hub id has revisions", given=f"{name} at {revision}", hint="Leave the revision out.")
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError("no such checkpoint", given=name, allowed="a folder, a hub id like org/name, or pocket", hint="Check the path.")
    else:
        folder = _fetch(name, revision, offline, cache_dir)
    _refuse_pointers(folder)
    return folder


def _fetch(name: str, revision: str | None, offline: bool, cache_dir: str | None) -> Path:
    try:
        with _bars_on_a_terminal_only():
            found = snapshot_download(
                name, revision=revision, cache_dir=cache_dir, local_files_only=offline, allow_patterns=_FILES, ignore_patterns=["*/*"]
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
            raise CheckpointError(f"{path.name} is a git-lfs pointer, not the file", given=str(folder), hint="Run in the folder: git lfs pull.")


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, named by its index or the only ones there. Raises `CheckpointError`."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise CheckpointError(f"{index.name} has no weight_map of file names", given=str(folder), hint="Download the file again.")
        names = sorted(set(table.values()))
        _refuse_missing(folder, names, "weight files that the index names are missing")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_WEIGHTS)
        raise CheckpointError(
            f"no .safetensors file in the checkpoint{f', only {others[0]}' if others else ''}",
            given=str(folder),
            hint="Only safetensors weights are read: use such a release, or write one with save_pretrained."
            if others
            else "Put the weights beside config.json.",
        )
    counts = {match[1] for path in found if (match := re.search(r"-of-(\d+)\.safetensors$", path.name))}
    for count in counts:
        stem = next(path.name for path in found if path.name.endswith(f"-of-{count}.safetensors")).rsplit("-", 3)[0]
        names = [f"{stem}-{i + 1:0{len(count)}d}-of-{count}.safetensors" for i in range(int(count))]
        _refuse_missing(folder, names, "weight files are missing")
    return found


def _refuse_missing(folder: Path, names: Iterable[str], what: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            what, given=f"{missing[0]}{more} in {folder}", hint="Download the checkpoint again; what is there already is not loaded twice."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `CheckpointError`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"no {path.name} in the checkpoint", given=str(path.parent), hint="Give the folder that holds config.json.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} is not valid JSON ({error})", given=str(path), hint="Download the file again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.name} is not a JSON object", given=str(path), hint="Download the file again.")
    return found


def read_optional(path: Path) -> dict[str, Any]:
    """As `read_json`, but a file that is not there is an empty object."""
    return read_json(path) if path.exists() else {}
