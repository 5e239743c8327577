"""Weights and JSON files in the hub's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Table = dict[str, tuple[int, ...]]
"""Name and shape of every tensor of a checkpoint."""

LAYOUTS = ("separate", "merged", "transformers5")
"""How files hold the experts of a layer: separately, merged by training tools, or as transformers 5
writes them.
"""

EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class CheckpointSpec:
    """What to write: random seed, dtype, number of weight files, layout of experts, and changed
    fields of config.json.
    """

    seed: int
    bf16: bool
    shards: int
    layout: str
    changes: Mapping[str, Any]


def random_weights(table: Table, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors for `table`: norms near 1 but not 1, biases near 0, matrices of scale
    1/sqrt(fan-in), embeddings of scale 1.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in table.items():
        weight = torch.randn(shape, generator=generator)
        if name.endswith("expert_bias"):
            weights[name] = 0.3 * weight  # a buffer of the router, float32 in every file
            continue
        if name.endswith("bias"):
            weight = 0.5 * weight
        elif len(shape) == 1:
            weight = 1 + 0.2 * weight
        elif not name.endswith(EMBEDDINGS):
            weight = weight * shape[-1] ** -0.5
        weights[name] = weight.to(dtype)
    return weights


def write_weights(weights: dict[str, Tensor], folder: Path, shards: int) -> None:
    """Write `weights` to one file, or to `shards` files with an index, named as on the hub."""
    if shards == 1:
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        return
    names = list(weights)
    weight_map: dict[str, str] = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        shard = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        tensors = {name: weights[name] for name in shard}
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    size = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def write_model(folder: Path, table: Table, spec: CheckpointSpec) -> None:
    """Write random weights for `table` (experts separately) in the layout of `spec`."""
    weights = random_weights(table, spec.seed, torch.bfloat16 if spec.bf16 else torch.float32)
    write_weights(arrange_experts(weights, spec.layout), folder, spec.shards)


def arrange_experts(weights: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Change separate experts to another layout."""
    if layout == "separate":
        return weights
    arranged = {name: weight for name, weight in weights.items() if ".experts." not in name}
    prefixes = {name.split(".experts.")[0] for name in weights if ".experts." in name}
    for prefix in sorted(prefixes):
        layer = f"{prefix}.experts"
        stacked = {x: _stack_experts(weights, layer, x) for x in ("gate", "up", "down")}
        if layout == "merged":
            arranged |= {f"{layer}.{x}_proj": weight for x, weight in stacked.items()}
        else:
            gate_up = torch.cat((stacked["gate"], stacked["up"]), dim=1)
            arranged |= {f"{layer}.gate_up_proj": gate_up, f"{layer}.down_proj": stacked["down"]}
    return arranged


def _stack_experts(weights: dict[str, Tensor], layer: str, projection: str) -> Tensor:
    suffix = f".{projection}_proj.weight"
    count = sum(name.startswith(f"{layer}.") and name.endswith(suffix) for name in weights)
    return torch.stack([weights[f"{layer}.{j}{suffix}"] for j in range(count)])


def write_json(path: Path, content: object) -> None:
    """Write JSON in the format of the hub's files."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
