"""Checkpoints into models: config.json -> family -> the one transformer, weights streamed in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from creditdecoding.checkpoint import read_json, read_optional, shards
from creditdecoding.config import EngineConfig, ModelConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models.config_keys import RecordedConfig, check_unread_keys, without_keys
from creditdecoding.models.families import dream, fast_dllm, llada, llada2, llada_moe, sdar
from creditdecoding.models.families.unsupported import check_supported_model
from creditdecoding.models.memory import FreeBytes, check_memory, check_size_of_files, free_bytes
from creditdecoding.models.quantize import int8_transform
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import Progress, load_weights

FAMILIES: tuple[ModuleType, ...] = (llada, llada_moe, llada2, dream, sdar, fast_dllm)


def read_config(folder: Path, ignored: Sequence[str] = ()) -> tuple[ModelConfig, ModuleType]:
    """Architecture of the checkpoint in `folder` and its family, as if config.json had none of the
    `ignored` keys.

    Raises `CheckpointError`, also for a key that no reader knows, and `OptionError` for an ignored
    key that is not there.
    """
    raw = without_keys(read_json(folder / "config.json"), ignored)
    check_supported_model(raw, folder)
    family = _known(raw)
    quantised = raw.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            "config.json: these weights are quantised, which is not read",
            given=f"quantization_config {str(method)[:60]}",
            allowed="float32, bfloat16 or float16 weights",
            hint="Use the release in bfloat16; quantize int8 makes smaller weights while loading.",
        )
    config = RecordedConfig(raw)
    architecture: ModelConfig = family.from_hf(
        config, read_optional(folder / "generation_config.json")
    )
    check_unread_keys(config, architecture.family, family.UNUSED)
    outside = next(
        (i for i in architecture.stop_token_ids if not 0 <= i < architecture.embedding_rows), None
    )
    if outside is not None:
        allowed = f"0 <= id < {architecture.embedding_rows}"
        raise CheckpointError(
            "eos_token_id makes no sense",
            given=outside,
            allowed=allowed,
            hint="Correct it in config.json.",
        )
    return architecture, family


def family_of(folder: Path) -> ModuleType:
    """The family of the checkpoint in `folder`. Raises `CheckpointError`."""
    return _known(read_json(folder / "config.json"))


def _known(raw: Mapping[str, Any]) -> ModuleType:
    """The family that reads a config: by its class, unless its model type is one of no family.
    Raises `CheckpointError`.
    """
    names, family = _family(raw)
    if family is None:
        known = ", ".join(name for family in FAMILIES for name in family.ARCHITECTURES)
        own_code = (
            " that runs only with code of its own, and such code is never run"
            if raw.get("auto_map")
            else ""
        )
        raise CheckpointError(
            f"unsupported architecture{own_code}",
            given=str(names[0])[:100] if names else None,
            allowed=known,
            hint="Use a checkpoint of one of these families.",
        )
    kind = raw.get("model_type")
    if kind is not None and kind not in [name for each in FAMILIES for name in each.MODEL_TYPES]:
        allowed = ", ".join(family.MODEL_TYPES)
        hint = f"Use a released checkpoint of {names[0]}; another type is another network."
        raise CheckpointError(
            "config.json: model_type is not implemented",
            given=str(kind)[:100],
            allowed=allowed,
            hint=hint,
        )
    return family


def _family(raw: Mapping[str, Any]) -> tuple[list[Any], ModuleType | None]:
    """The architectures that a config names, and the family of the first."""
    found = raw.get("architectures") or []
    names = found if isinstance(found, list) else [found]
    return names, next(
        (family for family in FAMILIES if names and names[0] in family.ARCHITECTURES), None
    )


def known_config(raw: Mapping[str, Any]) -> ModelConfig | None:
    """What is known of a network from its config, where it is of one of the families; None where it
    is not.
    """
    family = _family(raw)[1]
    try:
        return None if family is None else family.from_hf(raw, {})
    except CheckpointError:
        return None


def resolve_device(config: EngineConfig) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that "auto" stands for here. Raises `OptionError` if the device is not
    there.
    """
    wanted = config.device
    if wanted == "auto":
        wanted = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            "this device is not available",
            given=config.device,
            allowed="auto, cpu, cuda, mps",
            hint="Use --device cpu.",
        ) from error
    if config.dtype != "auto":
        return device, getattr(torch, config.dtype)
    return device, torch.float32 if device.type == "cpu" else torch.bfloat16


def build_on_meta(
    folder: Path, causal_block: int | None = None, ignored: Sequence[str] = ()
) -> tuple[Transformer, ModuleType]:
    """The checkpoint's transformer on the meta device, shapes without weights, and its family.
    Raises `CheckpointError`.

    `causal_block` replaces the block length of a block-causal checkpoint; for any other it raises
    `OptionError`. `ignored` as in
    `read_config`.
    """
    architecture, family = read_config(folder, ignored)
    check_size_of_files(architecture, shards(folder))
    if causal_block is not None:
        if architecture.causal_block is None:
            hint = "Leave causal_block out; block_length of the request is free."
            raise OptionError(
                "this checkpoint's attention has no blocks", given=causal_block, hint=hint
            )
        architecture = dataclasses.replace(architecture, causal_block=causal_block)
    with torch.device("meta"):
        return Transformer(architecture), family


def load_model(
    folder: Path,
    config: EngineConfig,
    on_progress: Progress | None = None,
    free: FreeBytes = free_bytes,
) -> Transformer:
    """Stream a checkpoint's weights to where `config` wants them, if they fit there. Raises
    `CheckpointError`.

    `on_progress` is called with the bytes read so far and the bytes there are; `free` tells the
    bytes that may be taken.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device, dtype = resolve_device(config)
    model, family = build_on_meta(folder, config.causal_block, config.ignore_config_keys)
    finish = int8_transform() if config.quantize == "int8" else None
    check_memory(model, shards(folder), device, dtype, config.quantize, free)
    load_weights(model, folder, family.RENAME, device, dtype, on_progress, finish)
    if config.compile:
        model.compile_layers(dynamic=True)
    return model.eval()
