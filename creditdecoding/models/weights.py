"""Streams safetensors into a model on the meta device, and writes them back; strict in both directions.

Leaves to others: which names mean what (the family's rename table) and where the folder comes from (checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from creditdecoding.checkpoint import read_json
from creditdecoding.errors import CheckpointError
from creditdecoding.models.transformer import Transformer


def released_names(model: Transformer, rename: Mapping[str, str]) -> dict[str, str]:
    """Released tensor name -> our parameter name, for every parameter of `model`."""
    names = {}
    for ours, _ in model.named_parameters():
        parts = ours.split(".")
        layer = parts[1] if parts[0] == "layers" else ""
        pattern = ".".join("{n}" if i == 1 and layer else part for i, part in enumerate(parts))
        names[rename[pattern].format(n=layer)] = ours
    return names


def shards(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, named by its index or the only ones there. Raises `CheckpointError`."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise CheckpointError(f"{index.name} has no weight_map of file names", given=str(folder), hint="Download the file again.")
        names = sorted(set(table.values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise CheckpointError("weight files that the index names are missing", given=missing, hint="Download the checkpoint again.")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise CheckpointError("no .safetensors file in the checkpoint", given=str(folder), hint="Only safetensors weights are read.")
    return found


def _tensors(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        try:
            with safe_open(str(path), framework="pt") as file:
                for name in list(file.keys()):
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name} is truncated or not safetensors ({error})", hint="Download the file again.") from error


def stream(model: Transformer, folder: Path, rename: Mapping[str, str], device: torch.device, dtype: torch.dtype) -> None:
    """Fill `model` (on the meta device) tensor by tensor. Raises `CheckpointError` on missing, extra or wrong-shape weights."""
    names = released_names(model, rename)
    wanted = dict(model.named_parameters())
    seen: set[str] = set()
    for name, tensor in _tensors(shards(folder)):
        if name not in names:
            raise CheckpointError("a weight that the architecture does not have", given=name, hint="config.json and weights do not belong together.")
        ours = names[name]
        if tensor.shape != wanted[ours].shape:
            raise CheckpointError(
                f"wrong shape of {name}",
                given=tuple(tensor.shape),
                allowed=tuple(wanted[ours].shape),
                hint="config.json and weights do not belong together.",
            )
        module, leaf = ours.rsplit(".", 1)
        setattr(model.get_submodule(module), leaf, nn.Parameter(tensor.to(device, dtype), requires_grad=False))
        seen.add(name)
    missing = sorted(set(names) - seen)
    if missing:
        raise CheckpointError(f"{len(missing)} weights are missing", given=missing[0], hint="Download the checkpoint again.")


def save(model: Transformer, path: Path, rename: Mapping[str, str], dtype: torch.dtype) -> None:
    """Write `model` under its released names to the safetensors file `path`."""
    ours = dict(model.named_parameters())
    tensors = {name: ours[own].detach().to("cpu", dtype).contiguous() for name, own in released_names(model, rename).items()}
    save_file(tensors, str(path), metadata={"format": "pt"})
