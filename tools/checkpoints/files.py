"""Weights and JSON files as the hub has them."""

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
"""How the experts of a layer lie in the files: one by one, merged by training tools, or as
transformers 5 writes them.
"""


@dataclass(frozen=True)
class Request:
    """What to write beside the family: random seed, dtype, number of weight files, layout of
    experts, changed fields of config.json.
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
    found = {}
    for name, shape in table.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("expert_bias"):
            found[name] = 0.3 * noise  # a buffer of the router, float32 in every file
            continue
        vector = 0.5 * noise if name.endswith("bias") else 1 + 0.2 * noise
        is_table = name.endswith(("wte.weight", "embed_tokens.weight", "word_embeddings.weight"))
        found[name] = (
            vector if len(shape) == 1 else noise if is_table else noise * shape[-1] ** -0.5
        ).to(dtype)
    return found


def write_weights(weights: dict[str, Tensor], folder: Path, shards: int) -> None:
    """Write `weights` as one file, or as `shards` files with an index, named as the hub names them."""
    if shards == 1:
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        return
    names = list(weights)
    where: dict[str, str] = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        save_file(
            {name: weights[name] for name in mine}, str(folder / file), metadata={"format": "pt"}
        )
        where |= dict.fromkeys(mine, file)
    size = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": where},
    )


def write_model(folder: Path, table: Table, request: Request) -> None:
    """Write random weights for `table` (experts one by one) in the layout asked for."""
    weights = random_weights(table, request.seed, torch.bfloat16 if request.bf16 else torch.float32)
    write_weights(lay_out(weights, request.layout), folder, request.shards)


def lay_out(weights: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The same weights with the experts of each layer in another layout."""
    if layout == "separate":
        return weights
    found = {name: weight for name, weight in weights.items() if ".experts." not in name}
    tops = sorted(
        {name.split(".experts.")[0] + ".experts" for name in weights if ".experts." in name}
    )
    for top in tops:
        count = len(
            {
                name.removeprefix(f"{top}.").split(".")[0]
                for name in weights
                if name.startswith(f"{top}.")
            }
        )
        gate, up, down = (
            torch.stack([weights[f"{top}.{j}.{x}_proj.weight"] for j in range(count)])
            for x in ("gate", "up", "down")
        )
        if layout == "merged":
            found |= {f"{top}.gate_proj": gate, f"{top}.up_proj": up, f"{top}.down_proj": down}
        else:
            found |= {f"{top}.gate_up_proj": torch.cat((gate, up), dim=1), f"{top}.down_proj": down}
    return found


def write_json(path: Path, content: object) -> None:
    """Write JSON as the hub's files have it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
