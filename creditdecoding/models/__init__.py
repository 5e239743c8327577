"""Checkpoints into models: config.json -> family -> the one transformer, weights streamed in.

Leaves to others: finding the folder (checkpoint.py), text (tokenizer.py), decoding (generate.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from creditdecoding.checkpoint import read_json, read_optional, shards
from creditdecoding.config import EngineConfig, ModelConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models import dream, fast_dllm, llada, llada2, llada_moe, sdar
from creditdecoding.models.memory import Free, free, refuse_too_big
from creditdecoding.models.quantize import int8
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import Progress, stream

FAMILIES: tuple[ModuleType, ...] = (llada, llada_moe, llada2, dream, sdar, fast_dllm)

# Architectures that look like one of ours and are not.
LOOKALIKES = {
    "DreamForCausalLM": "DreamReasoner is another network than Dream: per-head norms, blocks of 32, no shift. It is not implemented.",
    "DiffusionGemmaForBlockDiffusion": "DiffusionGemma has no mask token: its canvas is decoded in another way. It is not implemented.",
}


def read_config(folder: Path) -> tuple[ModelConfig, ModuleType]:
    """Architecture of the checkpoint in `folder` and its family. Raises `CheckpointError`."""
    raw = read_json(folder / "config.json")
    names, family = _family(raw)
    if family is None:
        known = ", ".join(name for family in FAMILIES for name in family.ARCHITECTURES)
        own_code = " that runs only with code of its own, and such code is never run" if raw.get("auto_map") else ""
        raise CheckpointError(
            f"unsupported architecture{own_code}",
            given=names[0] if names else None,
            allowed=known,
            hint=LOOKALIKES.get(str(names[0] if names else None), "Use a checkpoint of one of these families."),
        )
    quantised = raw.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            "config.json: these weights are quantised, which is not read",
            given=f"quantization_config {method}",
            allowed="float32, bfloat16 or float16 weights",
            hint="Use the release in bfloat16; quantize int8 makes smaller weights while loading.",
        )
    architecture: ModelConfig = family.from_hf(raw, read_optional(folder / "generation_config.json"))
    return architecture, family


def _family(raw: Mapping[str, Any]) -> tuple[list[Any], ModuleType | None]:
    """The architectures that a config names, and the family of the first."""
    found = raw.get("architectures") or []
    names = found if isinstance(found, list) else [found]
    return names, next((family for family in FAMILIES if names and names[0] in family.ARCHITECTURES), None)


def recognised(raw: Mapping[str, Any]) -> ModelConfig | None:
    """What is known of a network from its config, where it is of one of the families; None where it is not."""
    family = _family(raw)[1]
    try:
        return None if family is None else family.from_hf(raw, {})
    except CheckpointError:
        return None


def place(config: EngineConfig) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that "auto" stands for here. Raises `OptionError` if the device is not there."""
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError("this device is not available", given=config.device, allowed="auto, cpu, cuda, mps", hint="Use --device cpu.") from error
    if config.dtype != "auto":
        return device, getattr(torch, config.dtype)
    return device, torch.float32 if device.type == "cpu" else torch.bfloat16


def outline(folder: Path, causal_block: int | None = None) -> tuple[Transformer, ModuleType]:
    """The checkpoint's transformer on the meta device, shapes without weights, and its family. Raises `CheckpointError`.

    `causal_block` replaces the block length of a block-causal checkpoint; for any other it raises `OptionError`.
    """
    architecture, family = read_config(folder)
    if causal_block is not None:
        if architecture.causal_block is None:
            hint = "Leave causal_block out; block_length of the request is free."
            raise OptionError("this checkpoint's attention has no blocks", given=causal_block, hint=hint)
        architecture = dataclasses.replace(architecture, causal_block=causal_block)
    with torch.device("meta"):
        return Transformer(architecture), family


def load_model(folder: Path, config: EngineConfig, on_progress: Progress | None = None, free: Free = free) -> Transformer:
    """Stream a checkpoint's weights to where `config` wants them, if they fit there. Raises `CheckpointError`.

    `on_progress` is called with the bytes read so far and the bytes there are; `free` tells the bytes that may be taken.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device, dtype = place(config)
    model, family = outline(folder, config.causal_block)
    finish = int8() if config.quantize == "int8" else None
    refuse_too_big(model, shards(folder), device, dtype, config.quantize, free)
    stream(model, folder, family.RENAME, device, dtype, on_progress, finish)
    if config.compile:
        model.compile_layers(dynamic=True)
    return model.eval()
