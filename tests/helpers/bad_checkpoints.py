"""Copies of a checkpoint to spoil, and the shape that every error must have."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import creditdecoding
from creditdecoding.errors import CheckpointError, CreditError
from tools.make_checkpoint import llada_tokenizer, write_json

Breaker = Callable[[Path], object]
"""Spoils the checkpoint in a folder."""


def one_line(error: CreditError) -> str:
    """The message of an error: one line that ends with a hint."""
    message = str(error)
    assert error.hint and message.endswith(error.hint), message
    assert len(message.splitlines()) == 1 and len(message) < 600, message
    return message


def refused(name: str) -> CheckpointError:
    """The error with which loading `name` is refused."""
    with pytest.raises(CheckpointError) as caught:
        creditdecoding.load(name, device="cpu")
    one_line(caught.value)
    return caught.value


def file_contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit(file: str, drop: tuple[str, ...] = (), **changes: Any) -> Breaker:
    """Change or drop fields of a JSON file."""

    def apply(folder: Path) -> None:
        fields = {**json.loads((folder / file).read_text()), **changes}
        kept = {name: value for name, value in fields.items() if name not in drop}
        write_json(folder / file, kept)

    return apply


def config(drop: tuple[str, ...] = (), **changes: Any) -> Breaker:
    """Change or drop fields of config.json."""
    return edit("config.json", drop, **changes)


def content(file: str, data: str | bytes) -> Breaker:
    """Replace a file."""
    data = data.encode() if isinstance(data, str) else data
    return lambda folder: (folder / file).write_bytes(data)


def remove(*files: str) -> Breaker:
    """Remove files."""

    def apply(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return apply


def truncate(size: int, file: str = "model.safetensors") -> Breaker:
    """Truncate a file to `size` bytes; a negative size counts from its end."""

    def apply(folder: Path) -> None:
        path = folder / file
        path.write_bytes(path.read_bytes()[:size])

    return apply


def tensors(changes: dict[str, torch.Tensor | None]) -> Breaker:
    """Add, replace or (None) drop tensors."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        weights = {**load_file(path), **changes}
        kept = {name: weight for name, weight in weights.items() if weight is not None}
        save_file(kept, str(path), metadata={"format": "pt"})

    return apply


def index(data: Any) -> Breaker:
    """Add an index, given as text or as data."""
    text = data if isinstance(data, str) else json.dumps(data)
    return content("model.safetensors.index.json", text)


def lfs_pointer(file: str) -> Breaker:
    """A file that git-lfs did not fetch."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9000000000\n"
    return content(file, text)


def pipe(file: str) -> Breaker:
    """A pipe that nobody writes to in place of a file."""

    def apply(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return apply


def folder_for(file: str) -> Breaker:
    """A folder in place of a file."""

    def apply(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir()

    return apply


def rename_weights(name: str) -> Breaker:
    """Another name for the weight file."""
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def more_ids(folder: Path) -> None:
    """A tokenizer with more ids than the embedding has rows."""
    tokenizer = llada_tokenizer()
    tokenizer.add_tokens([f"<extra {i}>" for i in range(100)])
    tokenizer.save(str(folder / "tokenizer.json"))


def no_mask(folder: Path) -> None:
    """Neither config.json nor the tokenizer knows a mask."""
    config(drop=("mask_token_id",))(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / file
        path.write_text(path.read_text().replace("<|mdm_mask|>", "<|reserved_token_9|>"))
