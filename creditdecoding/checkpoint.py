"""Finds a checkpoint (a folder, a bundled or pulled model, a hub id) and the weight files in it.

Hub downloads run no code. An interrupted one continues with the missing files, and whether all
files are there and whole is checked every time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.options import StrPath

_ASSETS = Path(__file__).parent / "assets"
_BUNDLED = ("pocket", "pocket-v1", "smol")
BUNDLED = {name: _ASSETS / name for name in _BUNDLED if (_ASSETS / name).is_dir()}
"""Models of this package. Published numbers that name `pocket-v1` were measured on the first one.
"""

PULLED: Mapping[str, str] = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Models that `credit pull` fetches, and the hub ids under which adapters may name them."""

CACHE_VARIABLE = "CREDITDECODING_CACHE"
"""The environment variable that names the folder of pulled models."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

MAX_TEXT_BYTES = 2**28
"""Bytes of a text file of a checkpoint; the longest released ones have some ten million."""

_SHARD = re.compile(r"[^/\\:\0\s]+\.safetensors")
_NUMBERED = re.compile(r"(.+)-([0-9]+)-of-([0-9]+)\.safetensors")
_LFS_POINTER = b"version https://git-lfs"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")
_DOWNLOAD_AGAIN = "Download the file again."

# One slash; letters, digits, - _ and . around it, with no - or . at either end.
_HUB_ID = re.compile(r"\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)


def resolve_checkpoint(
    name: StrPath, revision: str | None = None, offline: bool = False, cache_dir: str | None = None
) -> Path:
    """The folder of the checkpoint `name`: of a bundled or pulled model, its own, or downloaded if
    it is a hub id.

    For hub ids only: `revision`, `offline` (use only what is downloaded) and `cache_dir` (where
    downloads are, by default the hub's own cache). Raises `CheckpointError`, or `OptionError` for a
    revision of a folder.
    """
    if not isinstance(name, str | os.PathLike):
        hint = "Give a folder, a hub id or pocket."
        raise OptionError("not the name of a checkpoint", given=type(name).__name__, hint=hint)
    name = os.fspath(name)
    folder = _named_folder(name) or _local_folder(name)
    if folder is None:
        from creditdecoding.hub import download  # noqa: PLC0415

        folder = download(name, revision, offline, cache_dir)
    elif revision is not None:
        raise OptionError(
            "only a hub id has revisions",
            given=f"{name} at {revision}",
            hint="Leave the revision out.",
        )
    _refuse_lfs_pointers(folder)
    return folder


def pulled_folder(name: str) -> Path:
    """Where `credit pull` puts a model: below `CREDITDECODING_CACHE`, else the user's cache."""
    folder = os.environ.get(CACHE_VARIABLE)
    if folder:
        return Path(folder).expanduser() / name
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).expanduser() / "creditdecoding" / name


def _named_folder(name: str) -> Path | None:
    """The folder of a bundled or pulled model; None for other names. Raises `CheckpointError`."""
    if name not in PULLED:
        return BUNDLED.get(name)
    folder = pulled_folder(name)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the model {name} is not on this machine",
            given=str(folder),
            hint=f"Fetch it with: credit pull {name}",
        )
    return folder


@dataclass(frozen=True)
class CheckpointParts:
    """The folder of a checkpoint, and that of its weights, which for an adapter is its base."""

    folder: Path
    weights: Path

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter."""
        return self.weights != self.folder

    def folder_of(self, *names: str) -> Path:
        """The folder with one of these files: an adapter without them uses its base's."""
        has_own = any((self.folder / name).exists() for name in names)
        return self.folder if has_own else self.weights


def find_parts(
    folder: Path, offline: bool = False, cache_dir: str | None = None
) -> CheckpointParts:
    """Where the parts of the checkpoint in `folder` are; options as in `resolve_checkpoint`.

    Raises `CheckpointError`, also if an adapter's base is not found.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        return CheckpointParts(folder, folder)
    raw = read_json(folder / ADAPTER_CONFIG)
    name = raw.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{ADAPTER_CONFIG} names no base",
            given=name,
            allowed="base_model_name_or_path: a folder, a hub id or a pulled model",
            hint="Write the base into it.",
        )
    base = _base_folder(folder, name, raw.get("revision"), offline, cache_dir)
    if (base / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            "the base of an adapter is an adapter itself",
            given=str(base),
            hint="Merge that one first, or name its base.",
        )
    return CheckpointParts(folder, base)


def _base_folder(
    folder: Path, name: str, revision: Any, offline: bool, cache_dir: str | None
) -> Path:
    """The folder of an adapter's base; a relative path may start at the adapter's folder."""
    beside = folder / name
    if beside.is_dir():
        return beside
    revision = revision if isinstance(revision, str) and "/" in name else None
    pulled = [ours for ours, hub_id in PULLED.items() if hub_id == name]
    try:
        return resolve_checkpoint(name, revision, offline or bool(pulled), cache_dir)
    except CheckpointError as error:
        if pulled and (pulled_folder(pulled[0]) / "config.json").is_file():
            return pulled_folder(pulled[0])
        if pulled and not offline:
            return resolve_checkpoint(name, revision, offline, cache_dir)
        error.what = f"the adapter's base: {error.what}"
        raise


def _local_folder(name: str) -> Path | None:
    """The folder that `name` is; None if it can only be a hub id.

    Raises `CheckpointError` for a path that leads nowhere.
    """
    is_hub_id = _HUB_ID.fullmatch(name) is not None
    is_file = False
    try:
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            return folder
        is_file = folder.is_file()
        if is_hub_id and not folder.parent.is_dir() and not folder.exists():
            return None
    except (OSError, RuntimeError, ValueError):
        pass  # a name too long, an unknown home, a zero byte: no folder in any case
    what, hint = "no such checkpoint", "Check the path."
    if is_file:
        what, hint = "this is a file", "Give the folder that it is in."
    elif "/" in name or "\\" in name:
        what = "no such checkpoint: there is no such folder"
        if is_hub_id:
            hint = "Check the path; to take a hub id of this name, run it in another folder."
    raise CheckpointError(
        what,
        given=name if len(name) <= 200 else f"{name[:200]}...",
        allowed=f"a folder, a hub id like org/name, {', '.join([*BUNDLED, *PULLED])}",
        hint=hint,
    )


def _refuse_lfs_pointers(folder: Path) -> None:
    for path in sorted(folder.glob("*.*")):
        is_small = path.is_file() and path.stat().st_size < 1024
        if is_small and path.read_bytes().startswith(_LFS_POINTER):
            raise CheckpointError(
                f"{path.name} is a git-lfs pointer, not the file",
                given=str(folder),
                hint="Run in the folder: git lfs pull.",
            )


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint: those in its index, or all if it has none; of an adapter
    its own.

    Raises `CheckpointError`.
    """
    if (folder / ADAPTER_CONFIG).exists():
        return [_adapter_weights(folder)]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = _indexed_names(index)
        missing = [name for name in names if not (folder / name).is_file()]
        _refuse_missing(folder, missing, "weight files that the index names are missing")
        return [folder / name for name in names]
    paths = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if not paths:
        raise _no_weights(folder)
    _refuse_missing(folder, _gaps({path.name for path in paths}), "weight files are missing")
    return paths


def _adapter_weights(folder: Path) -> Path:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"no {ADAPTER_WEIGHTS} beside {ADAPTER_CONFIG}",
            given=str(folder),
            hint="Put the adapter's weights there, in the safetensors format.",
        )
    return path


def _no_weights(folder: Path) -> CheckpointError:
    what, hint = "no .safetensors file in the checkpoint", "Put the weights next to config.json."
    others = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_WEIGHTS)
    if others:
        what += f", only {others[0]}"
        hint = "Use a release with safetensors weights, or write them with save_pretrained."
    return CheckpointError(what, given=str(folder), hint=hint)


def _indexed_names(index: Path) -> list[str]:
    """The files in an index, each a plain name. Raises `CheckpointError`."""
    weight_map = read_json(index).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"{index.name} has no weight_map of file names",
            given=str(index.parent),
            hint=_DOWNLOAD_AGAIN,
        )
    unique = sorted(set(names))
    for name in unique:
        if not _SHARD.fullmatch(name):
            raise CheckpointError(
                f"{index.name} names a file elsewhere",
                given=name[:100],
                allowed="plain names of .safetensors files in the same folder",
                hint="Do not trust this checkpoint, or correct the index.",
            )
    return unique


def _gaps(names: Set[str]) -> list[str]:
    """The first missing file of each series NAME-00001-of-00003.

    The work is proportional to the number of files, not to the numbers in their names.
    """
    series: dict[tuple[str, str], set[int]] = {}
    for name in names:
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
            hint="Download the checkpoint again; files that are there are not loaded twice.",
        )


def check_file(path: Path) -> None:
    """Refuse a path that is no file (a folder, a pipe), and a file too long to be read whole.

    A missing file passes. Raises `CheckpointError`.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path.name} is not a file", given=str(path), hint=_DOWNLOAD_AGAIN)
    if path.exists() and path.stat().st_size > MAX_TEXT_BYTES:
        raise CheckpointError(
            f"{path.name} is too long",
            given=path.stat().st_size,
            allowed=f"at most {MAX_TEXT_BYTES} bytes",
            hint=_DOWNLOAD_AGAIN,
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
            f"{path.name} cannot be read ({error})", given=str(path), hint=_DOWNLOAD_AGAIN
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `CheckpointError`."""
    cause: Exception | None = None
    try:
        value = json.loads(read_text(path))
        if isinstance(value, dict):
            return value
        what = "is not a JSON object"
    except RecursionError as error:
        what, cause = "is nested too deeply", error
    except ValueError as error:
        what, cause = f"is not valid JSON ({error})", error
    raise CheckpointError(f"{path.name} {what}", given=str(path), hint=_DOWNLOAD_AGAIN) from cause


def read_optional(path: Path) -> dict[str, Any]:
    """As `read_json`; an empty object if there is no file."""
    return read_json(path) if path.exists() else {}
