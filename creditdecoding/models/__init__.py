"""Checkpoints into models: config.json -> family -> the one transformer, weights streamed in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from creditdecoding.checkpoint import (
    CheckpointParts,
    find_parts,
    read_json,
    read_optional,
    shards,
)
from creditdecoding.config import EngineConfig, ModelConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models.adapter import read_adapter
from creditdecoding.models.config_keys import RecordedConfig, check_unread_keys, without_keys
from creditdecoding.models.families import (
    ModelFamily,
    causal,
    dream,
    fast_dllm,
    llada,
    llada2,
    llada_moe,
    sdar,
)
from creditdecoding.models.families.unsupported import check_supported_model
from creditdecoding.models.memory import FreeBytes, check_memory, check_size_of_files, free_bytes
from creditdecoding.models.precision import faster_dtype
from creditdecoding.models.quantize import int8_transform
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import Progress, Transform, load_weights

FAMILIES: tuple[ModelFamily, ...] = (llada, llada_moe, llada2, dream, sdar, fast_dllm)

BASES: tuple[ModelFamily, ...] = (causal,)
"""Autoregressive networks, which adapters start from."""
LARGE_NETWORK = 10_000_000
"""Parameters from which on a CPU computes in the faster dtype."""


def read_config(
    folder: Path, ignored: Sequence[str] = (), families: Sequence[ModelFamily] = FAMILIES
) -> tuple[ModelConfig, ModelFamily]:
    """Architecture and family (one of `families`) of the checkpoint in `folder`, without the
    `ignored` keys.

    Raises `CheckpointError`, also for a key that no reader knows, and `OptionError` for an ignored
    key that is not in config.json.
    """
    raw = without_keys(read_json(folder / "config.json"), ignored)
    check_supported_model(raw, folder)
    family = _family_of_config(raw, families)
    quantised = raw.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            "config.json: quantised weights are not supported",
            given=f"quantization_config {str(method)[:60]}",
            allowed="float32, bfloat16 or float16 weights",
            hint="Use the bfloat16 release; quantize int8 saves memory while loading.",
        )
    config = RecordedConfig(raw)
    generation = read_optional(folder / "generation_config.json")
    architecture = family.from_hf(config, generation)
    check_unread_keys(config, architecture.family, family.UNUSED)
    for token_id in architecture.stop_token_ids:
        if not 0 <= token_id < architecture.embedding_rows:
            raise CheckpointError(
                "eos_token_id makes no sense",
                given=token_id,
                allowed=f"0 <= id < {architecture.embedding_rows}",
                hint="Correct it in config.json.",
            )
    return architecture, family


def family_of(folder: Path) -> ModelFamily:
    """The family of the checkpoint in `folder`. Raises `CheckpointError`."""
    return _family_of_config(read_json(folder / "config.json"), FAMILIES)


def is_base(folder: Path) -> bool:
    """Whether a folder holds an autoregressive model."""
    return _family_of_class(_class_name(read_optional(folder / "config.json")), BASES) is not None


def known_config(raw: Mapping[str, Any]) -> ModelConfig | None:
    """The architecture that a config of one of the families describes; None for other networks."""
    family = _family_of_class(_class_name(raw), FAMILIES)
    try:
        return None if family is None else family.from_hf(raw, {})
    except CheckpointError:
        return None


def _family_of_config(raw: Mapping[str, Any], families: Sequence[ModelFamily]) -> ModelFamily:
    """The family of a config's class, whose model type must be known. Raises `CheckpointError`."""
    name = _class_name(raw)
    family = _family_of_class(name, families)
    if family is None:
        raise _unsupported_class(raw, families)
    model_type = raw.get("model_type")
    if model_type is not None and not any(model_type in other.MODEL_TYPES for other in families):
        raise CheckpointError(
            "config.json: model_type is not implemented",
            given=str(model_type)[:100],
            allowed=", ".join(family.MODEL_TYPES),
            hint=f"Use a released checkpoint of {name}; another type is another network.",
        )
    return family


def _unsupported_class(raw: Mapping[str, Any], families: Sequence[ModelFamily]) -> CheckpointError:
    """The error for a class that is not of `families`."""
    name = _class_name(raw)
    own_code = " (it needs its own code, which is never run)" if raw.get("auto_map") else ""
    what = f"unsupported architecture{own_code}"
    hint = "Use a checkpoint of one of these families."
    if _family_of_class(name, BASES) is not None:
        what = "this is an autoregressive model, not a diffusion model"
        hint = "It can be the base of one: credit adapt makes it (docs/guide/adapters.md)."
    elif _family_of_class(name, FAMILIES) is not None:
        what = "this is a diffusion model, not an autoregressive one"
        hint = "Give the model that it was adapted from (docs/guide/adapters.md)."
    return CheckpointError(
        what,
        given=None if name is None else str(name)[:100],
        allowed=", ".join(name for family in families for name in family.ARCHITECTURES),
        hint=hint,
    )


def _class_name(raw: Mapping[str, Any]) -> Any:
    """The first class that config.json names, None if there is none."""
    names = raw.get("architectures") or [None]
    return names[0] if isinstance(names, list) else names


def _family_of_class(name: Any, families: Sequence[ModelFamily]) -> ModelFamily | None:
    return next((family for family in families if name in family.ARCHITECTURES), None)


def resolve_device(config: EngineConfig) -> torch.device:
    """The device, with "auto" resolved. Raises `OptionError` if it is missing."""
    name = _best_device() if config.device == "auto" else config.device
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            "this device is not available",
            given=config.device,
            allowed="auto, cpu, cuda, mps",
            hint="Use --device cpu.",
        ) from error
    return device


def resolve_dtype(
    config: EngineConfig,
    device: torch.device,
    model: Transformer,
) -> torch.dtype:
    """The dtype of a model's weights on a device, with "auto" resolved.

    That is bfloat16 on GPUs. On a CPU it is the faster one for large networks, and float32 for
    small and quantised ones: the embedded models answer alike on every machine.
    """
    if config.dtype != "auto":
        return getattr(torch, config.dtype)  # type: ignore[no-any-return]
    is_large = model.config.num_parameters() >= LARGE_NETWORK
    if device.type == "cpu" and (not is_large or config.quantize != "none"):
        return torch.float32
    return faster_dtype(device)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def build_on_meta(
    folder: Path,
    causal_block: int | None = None,
    ignored: Sequence[str] = (),
    families: Sequence[ModelFamily] = FAMILIES,
    weights: Path | None = None,
) -> tuple[Transformer, ModelFamily]:
    """The checkpoint's transformer on the meta device (shapes without weights) and its family.

    `causal_block` replaces the block length of a block-causal checkpoint; for any other it raises
    `OptionError`. `ignored` and `families` are as in `read_config`; `weights` is the folder of the
    weights, if it is another. Raises `CheckpointError`.
    """
    architecture, family = read_config(folder, ignored, families)
    check_size_of_files(architecture, shards(weights or folder))
    if causal_block is not None:
        if architecture.causal_block is None:
            raise OptionError(
                "this checkpoint's attention has no blocks",
                given=causal_block,
                hint="Leave causal_block out; block_length can be chosen freely.",
            )
        architecture = dataclasses.replace(architecture, causal_block=causal_block)
    with torch.device("meta"):
        return Transformer(architecture), family


def load_model(
    folder: Path,
    config: EngineConfig,
    on_progress: Progress | None = None,
    free: FreeBytes = free_bytes,
    families: Sequence[ModelFamily] = FAMILIES,
) -> Transformer:
    """Load a checkpoint on the device and in the dtype of `config`, if there is memory for it.

    `on_progress` is called with the bytes read so far and the bytes in all; `free` returns the
    bytes available on a device; `families` are those allowed. Raises `CheckpointError`.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = resolve_device(config)
    parts = find_parts(folder, config.offline, config.cache_dir)
    model, family = build_parts(parts, config, families)
    dtype = resolve_dtype(config, device, model)
    transform = int8_transform() if config.quantize == "int8" else None
    check_memory(model, shards(parts.weights), device, dtype, config.quantize, free)
    merge = merge_of(parts, model, family)
    load_weights(model, parts.weights, family.RENAME, device, dtype, on_progress, transform, merge)
    model.fused_head = config.fused_head
    if config.cuda_graphs:
        model.compile_layers(dynamic=False, pads_passes=True)
    elif config.compile:
        model.compile_layers(dynamic=True)
    return model.eval()


def build_parts(
    parts: CheckpointParts, config: EngineConfig, families: Sequence[ModelFamily] = FAMILIES
) -> tuple[Transformer, ModelFamily]:
    """As `build_on_meta`, also for an adapter."""
    folder = parts.folder_of("config.json")
    ignored = config.ignore_config_keys
    return build_on_meta(folder, config.causal_block, ignored, families, parts.weights)


def merge_of(parts: CheckpointParts, model: Transformer, family: ModelFamily) -> Transform | None:
    """What merges the adapter of a checkpoint into its base's tensors; None if there is none.

    Raises `CheckpointError`.
    """
    if not parts.is_adapter:
        return None
    embedding = family.RENAME["embed.weight"]
    assert isinstance(embedding, str)
    return read_adapter(parts, model.config, embedding).merge
