"""Decoders that clients name: built-in ones, installed ones, and files of a folder that the
operator allows. A file is code, so by default none is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from creditdecoding.decoders import from_file, names, resolve
from creditdecoding.decoders.base import Decoder
from creditdecoding.errors import OptionError
from creditdecoding.options import split_spec
from creditdecoding.plugins import file_digest, is_python_file


def client_decoder(spec: str | Mapping[str, Any], folder: str | None) -> Decoder:
    """The decoder that a client names, as a text or a mapping. Raises `OptionError`."""
    name, knobs = _split(spec)
    if not is_python_file(name):
        return resolve(spec, controls=False)
    if folder is None:
        raise OptionError(
            "this server allows no decoder files",
            given=name,
            allowed=", ".join(names()),
            hint="Its operator can allow the files of a folder with --decoder-files FOLDER.",
        )
    root = Path(folder).resolve()
    path = _file_of(root, name)
    if path is None:
        raise OptionError(
            "there is no such decoder file",
            given=name,
            allowed=", ".join(sorted(file.name for file in root.glob("*.py"))) or "none",
            hint="Name a file of the operator's folder.",
        )
    return from_file(str(path), knobs)


def _file_of(root: Path, name: str) -> Path | None:
    """The file of that name inside of the folder; None if there is none."""
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):  # too long for a name of a file, or with a NUL
        return None


def _split(spec: str | Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The name and the knobs."""
    if isinstance(spec, str):
        return split_spec(spec, "decoder")
    knobs = {knob: value for knob, value in spec.items() if knob != "name"}
    return spec.get("name"), knobs


def folder_digests(folder: str | None) -> dict[str, str]:
    """The digest of each Python file of the folder, by name."""
    files = [] if folder is None else sorted(Path(folder).glob("*.py"))
    return {file.name: file_digest(file) for file in files}
