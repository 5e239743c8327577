"""Finds a checkpoint: a folder, the embedded model's name, or a hub id (downloaded without any code).

Leaves to others: what the files mean (models/, tokenizer.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from creditdecoding.errors import CheckpointError

EMBEDDED = {"pocket": Path(__file__).parent / "assets" / "pocket"}
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]


def locate(name: str) -> Path:
    """The folder of the checkpoint `name`. Raises `CheckpointError`."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError("no such checkpoint", given=name, allowed="a folder, a hub id like org/name, or pocket", hint="Check the path.")
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # the hub client lets its HTTP library's own errors through
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"the hub did not give it ({reason})", given=name, hint="Check the id and the network, or download it and give the folder."
        ) from error


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
