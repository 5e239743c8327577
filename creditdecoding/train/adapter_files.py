"""The files of an adaptation: a PEFT adapter, or all weights, with config.json and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from creditdecoding.checkpoint import read_optional
from creditdecoding.errors import CheckpointError
from creditdecoding.models.adapter import MASK_EMBEDDING, PREFIX, TOKENS, base_fingerprint
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import released_name, save_weights
from creditdecoding.run_dir import atomic_path, write_json
from creditdecoding.train.adapt_options import AdaptConfig
from creditdecoding.train.bases import Base
from creditdecoding.train.lora import MaskEmbedding, lora_layers

MASK_ROW = f"{PREFIX}model.embed_tokens{TOKENS}"
WEIGHTS = "adapter_model.safetensors"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NORMS = ["input_layernorm", "post_attention_layernorm", "norm"]
HEAD_NORMS = ["q_norm", "k_norm"]


def adapter_tensors(model: Transformer, mask: MaskEmbedding) -> dict[str, Tensor]:
    """Everything that is trained, under the names that PEFT saves; the tensors are not copied."""
    tensors: dict[str, Tensor] = {}
    for name, layer in lora_layers(model):
        module = PREFIX + released_name(QWEN, f"{name}.weight").removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = layer.lora_a
        tensors[f"{module}.lora_B.weight"] = layer.lora_b
    for name, weight in model.named_parameters():
        if "norm" in name:
            tensors[PREFIX + released_name(QWEN, name)] = weight
    tensors[MASK_ROW] = mask.row
    return tensors


def write_adapter(
    model: Transformer,
    mask: MaskEmbedding,
    base: Base,
    config: AdaptConfig,
    folder: Path,
) -> None:
    """Write the adapter and its config files; of rank 0, a whole checkpoint. A kill leaves whole
    files.
    """
    if not config.rank:
        _write_checkpoint(model, mask, base, folder)
        return
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in adapter_tensors(model, mask).items()
    }
    tensors[MASK_ROW] = tensors[MASK_ROW][None]
    write_json(folder / "adapter_config.json", peft_config(base, config))
    _write_configs(base, folder, with_tokenizer=base.added_mask)
    with atomic_path(folder / WEIGHTS) as path:
        save_file(tensors, str(path), metadata={"format": "pt"})


def _write_checkpoint(
    model: Transformer,
    mask: MaskEmbedding,
    base: Base,
    folder: Path,
) -> None:
    merged = merged_model(model, mask, base, torch.bfloat16)
    _write_configs(base, folder, with_tokenizer=True)
    with atomic_path(folder / "model.safetensors") as path:
        save_weights(merged, path, QWEN, torch.bfloat16)


def _write_configs(
    base: Base,
    folder: Path,
    with_tokenizer: bool,
) -> None:
    write_json(folder / "config.json", dllm_config(base))
    generation = read_optional(base.folder / "generation_config.json")
    if generation:
        write_json(folder / "generation_config.json", generation)
    if with_tokenizer:
        base.tokenizer.to_transformers().save_pretrained(folder)


def peft_config(base: Base, config: AdaptConfig) -> dict[str, Any]:
    """adapter_config.json."""
    norms = NORMS + (HEAD_NORMS if base.config.qk_norm else [])
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "base_fingerprint": base_fingerprint(base.folder),
        "r": config.rank,
        "lora_alpha": 2 * config.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": TARGETS,
        "modules_to_save": norms,
        "trainable_token_indices": {"embed_tokens": [base.tokenizer.mask_id]},
        "inference_mode": True,
    }


def dllm_config(base: Base) -> dict[str, Any]:
    """config.json in Fast-dLLM v2's format: the base's fields, blocks and the mask."""
    return {
        **base.raw,
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "model_type": "Fast_dLLM_Qwen",
        "attention_bias": base.config.qkv_bias,
        "qk_norm": base.config.qk_norm,
        "bd_size": base.config.causal_block,
        "mask_token_id": base.tokenizer.mask_id,
    }


@torch.no_grad()
def merged_model(
    model: Transformer,
    mask: MaskEmbedding,
    base: Base,
    dtype: torch.dtype,
) -> Transformer:
    """A plain network with the adapter merged and the mask's embedding in the table."""
    with torch.device("meta"):
        merged = Transformer(base.config)
    adapted = {f"{name}.weight": layer.merged() for name, layer in lora_layers(model)}
    for name in merged.state_dict():
        weight = adapted[name] if name in adapted else model.get_parameter(name).detach()
        copy = weight.to(dtype, copy=True)
        if name == "embed.weight":
            copy[base.tokenizer.mask_id] = mask.row.to(dtype)
        module, _, attribute = name.rpartition(".")
        parameter = torch.nn.Parameter(copy, requires_grad=False)
        setattr(merged.get_submodule(module), attribute, parameter)
    return merged


@torch.no_grad()
def load_adapter(
    model: Transformer,
    mask: MaskEmbedding,
    folder: Path,
) -> None:
    """Continue from an adapter of the same rank and base. Raises `CheckpointError`."""
    path = folder / WEIGHTS
    try:
        saved = load_file(str(path))
    except Exception as error:  # safetensors raises its own errors and OSErrors
        raise CheckpointError(
            f"no adapter to start from ({str(error).splitlines()[0][:120]})",
            given=str(path),
            hint="Give the folder of an adapter.",
        ) from error
    if MASK_EMBEDDING in saved:  # an adapter made elsewhere
        saved[MASK_ROW] = saved.pop(MASK_EMBEDDING)
    targets = adapter_tensors(model, mask)
    for name in sorted({*saved, *targets}):
        if name not in saved or name not in targets or saved[name].numel() != targets[name].numel():
            raise CheckpointError(
                "the adapter to start from does not fit (another rank, base or layout)",
                given=name,
                allowed=str(tuple(targets[name].shape)) if name in targets else "no such weight",
                hint="Give the same --rank and base that it was made with.",
            )
        targets[name].copy_(saved[name].view_as(targets[name]))
