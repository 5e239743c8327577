"""Small adapters under PEFT's names, written without PEFT, and their merge by the formula."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "base_model.model."
RANK, SCALE = 2, 2.0


def write_adapter(folder: Path, base: Path, tensors: Mapping[str, Tensor], **changes: Any) -> Path:
    """An adapter of rank `RANK` and scale `SCALE` for `base`; `changes` are fields of its config."""
    folder.mkdir(exist_ok=True)
    targets = sorted(
        {name.removeprefix(PREFIX).split(".lora_")[0] for name in tensors if ".lora_A." in name}
    )
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK * SCALE,
        "target_modules": targets,
        "base_model_name_or_path": str(base),
        **changes,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(dict(tensors), str(folder / "adapter_model.safetensors"))
    return folder


def low_rank_tensors(base: Path, suffix: str = "") -> dict[str, Tensor]:
    """Random A and B for every matrix of a base but its embedding and head, or for those whose
    names end with `suffix`.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, weight in base_tensors(base).items():
        is_table = any(part in name for part in ("embed", "wte", "lm_head"))
        is_head = name == "model.transformer.ff_out.weight"
        if weight.dim() != 2 or is_table or is_head or not name.endswith(suffix):
            continue
        module = PREFIX + name.removesuffix(".weight")
        shapes = {"A": (RANK, weight.shape[1]), "B": (weight.shape[0], RANK)}
        for letter, shape in shapes.items():
            tensors[f"{module}.lora_{letter}.weight"] = torch.randn(shape, generator=generator) / 4
    return tensors


def base_tensors(base: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    return {
        name: tensor
        for path in sorted(base.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def merged_tensors(base: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base with the low-rank updates added, in float32."""
    merged = {name: tensor.float() for name, tensor in base_tensors(base).items()}
    for name, first in tensors.items():
        if ".lora_A." in name:
            target = name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
            merged[target] += SCALE * tensors[name.replace("lora_A", "lora_B")] @ first
    return merged
