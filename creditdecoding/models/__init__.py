"""Checkpoints into models: config.json -> family -> the one transformer, weights streamed in.

Leaves to others: finding the folder (checkpoint.py), text (tokenizer.py), decoding (generate.py).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch

from creditdecoding.checkpoint import read_json
from creditdecoding.config import EngineConfig, ModelConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models import llada
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import stream

FAMILIES: tuple[ModuleType, ...] = (llada,)


def read_config(folder: Path) -> tuple[ModelConfig, ModuleType]:
    """Architecture of the checkpoint in `folder` and its family. Raises `CheckpointError`."""
    raw = read_json(folder / "config.json")
    found = raw.get("architectures") or []
    names = found if isinstance(found, list) else [found]
    for family in FAMILIES:
        if names and names[0] in family.ARCHITECTURES:
            return family.from_hf(raw), family
    known = ", ".join(name for family in FAMILIES for name in family.ARCHITECTURES)
    raise CheckpointError(
        "unsupported architecture", given=names[0] if names else None, allowed=known, hint="Use a checkpoint of one of these families."
    )


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


def load_model(folder: Path, config: EngineConfig) -> Transformer:
    """Build the checkpoint's transformer on the meta device and stream its weights in. Raises `CheckpointError`."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device, dtype = place(config)
    architecture, family = read_config(folder)
    with torch.device("meta"):
        model = Transformer(architecture)
    stream(model, folder, family.RENAME, device, dtype)
    return model.eval()
