"""An independent network for each family: a transformers class with the weights of a folder.

Tensor names are translated by hand from the published tables; no code of the package is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

Weights = dict[str, Tensor]

LLADA2_NAMES = {
    "model.word_embeddings": "model.embed_tokens",
    "attention.dense": "self_attn.o_proj",
    "attention.query_layernorm": "self_attn.q_norm",
    "attention.key_layernorm": "self_attn.k_norm",
    "mlp.gate.expert_bias": "mlp.gate.e_score_correction_bias",
}


def released(folder: Path) -> tuple[dict[str, Any], Weights]:
    """config.json and every tensor of a folder."""
    weights = {
        name: w
        for file in sorted(folder.glob("*.safetensors"))
        for name, w in load_file(file).items()
    }
    return json.loads((folder / "config.json").read_text()), weights


def common(raw: dict[str, Any]) -> dict[str, Any]:
    """Fields that all of these classes have."""
    names = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "rms_norm_eps",
    )
    heads = raw["num_attention_heads"]
    return {
        **{name: raw[name] for name in names},
        "intermediate_size": raw.get("intermediate_size", 8),
        "num_key_value_heads": raw["num_key_value_heads"] or heads,
        "head_dim": raw.get("head_dim") or raw["hidden_size"] // heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(raw["rope_theta"])},
        "tie_word_embeddings": raw["tie_word_embeddings"],
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def stack_experts(weights: Weights) -> Weights:
    """Separate experts to one tensor a layer, gate above up, as in transformers 5."""
    stacked = {name: w for name, w in weights.items() if ".experts." not in name}
    for top in {name.split(".experts.")[0] + ".experts" for name in weights if ".experts." in name}:
        count = 1 + max(
            int(match[1])
            for name in weights
            if (match := re.match(re.escape(top) + r"\.(\d+)\.", name))
        )
        gate, up, down = (
            [weights[f"{top}.{j}.{x}_proj.weight"] for j in range(count)]
            for x in ("gate", "up", "down")
        )
        stacked[f"{top}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(gate, up)])
        stacked[f"{top}.down_proj"] = torch.stack(down)
    return stacked


def split_fused(weights: Weights, raw: dict[str, Any]) -> Weights:
    """LLaDA2's fused projection -> q, k and v; its other names -> Glm4Moe's."""
    dim, heads = raw["head_dim"], raw["num_attention_heads"]
    kv = raw["num_key_value_heads"] or heads
    split = {}
    for name, weight in weights.items():
        if name.endswith("attention.query_key_value.weight"):
            for x, part in zip("qkv", weight.split([heads * dim, kv * dim, kv * dim])):
                split[name.replace("attention.query_key_value", f"self_attn.{x}_proj")] = part
            continue
        for old, new in LLADA2_NAMES.items():
            name = name.replace(old, new)
        split[name] = weight
    return split


def build(
    kind: Callable[[Any], PreTrainedModel], config: Any, weights: Weights, dtype: torch.dtype
) -> PreTrainedModel:
    """The class with these weights, every one used, in `dtype`; the rotary frequencies stay in
    float32.
    """
    config._experts_implementation = "eager"
    model = kind._from_config(config, attn_implementation="sdpa")
    if config.tie_word_embeddings:
        weights = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    model.load_state_dict({name: w.float() for name, w in weights.items()}, strict=True)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    kept = {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if name.endswith("correction_bias")
    }
    model = model.to(dtype).eval()
    model.model.rotary_emb.inv_freq = frequencies
    for name, buffer in kept.items():
        top, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(top), leaf, nn.Buffer(buffer))
    return model


def llada_moe(
    folder: Path, dtype: torch.dtype = torch.float32, renormalize: bool = False, **changes: Any
) -> PreTrainedModel:
    """Qwen3Moe whose router does not renormalise."""
    raw, weights = released(folder)
    config = Qwen3MoeConfig(
        **{**common(raw), **changes},
        attention_bias=False,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        moe_intermediate_size=raw["expert_intermediate_size"],
        num_experts=raw["num_experts"],
        num_experts_per_tok=raw["num_experts_per_tok"],
        norm_topk_prob=renormalize,
    )
    return build(Qwen3MoeForCausalLM, config, stack_experts(weights), dtype)


def llada2(
    folder: Path, dtype: torch.dtype = torch.float32, rotary: float = 0.5, bias: float = 1.0
) -> PreTrainedModel:
    """Glm4Moe; `rotary` is the rotated share of a head, `bias` a factor on the router's bias."""
    raw, weights = released(folder)
    fields = {
        **common(raw),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 6e5,
            "partial_rotary_factor": rotary,
        },
    }
    config = Glm4MoeConfig(
        **fields,
        attention_bias=False,
        use_qk_norm=True,
        moe_intermediate_size=raw["moe_intermediate_size"],
        n_routed_experts=raw["num_experts"],
        num_experts_per_tok=raw["num_experts_per_tok"],
        n_shared_experts=raw["num_shared_experts"],
        n_group=raw["n_group"],
        topk_group=raw["topk_group"],
        first_k_dense_replace=raw["first_k_dense_replace"],
        norm_topk_prob=True,
        routed_scaling_factor=raw["routed_scaling_factor"],
        num_mtp_layers=0,
    )
    renamed = {name: w * bias if name.endswith("expert_bias") else w for name, w in weights.items()}
    return build(Glm4MoeForCausalLM, config, stack_experts(split_fused(renamed, raw)), dtype)


def qwen2(folder: Path, dtype: torch.dtype = torch.float32, bias: float = 1.0) -> PreTrainedModel:
    """Qwen2, of which Dream and Fast-dLLM v2 have the names; `bias` is a factor on the biases."""
    raw, weights = released(folder)
    fields = {name: value for name, value in common(raw).items() if name != "head_dim"}
    config = Qwen2Config(**fields, use_sliding_window=False)
    return build(
        Qwen2ForCausalLM,
        config,
        {name: w * bias if name.endswith("bias") else w for name, w in weights.items()},
        dtype,
    )


def qwen3(folder: Path, dtype: torch.dtype = torch.float32, norms: float = 1.0) -> PreTrainedModel:
    """Qwen3, of which SDAR has the names; `norms` is a factor on the per-head norms."""
    raw, weights = released(folder)
    config = Qwen3Config(**common(raw), attention_bias=False, use_sliding_window=False)
    return build(
        Qwen3ForCausalLM,
        config,
        {name: w * norms if "_norm." in name else w for name, w in weights.items()},
        dtype,
    )


def sdar_moe(
    folder: Path, dtype: torch.dtype = torch.float32, renormalize: bool = True
) -> PreTrainedModel:
    """Qwen3Moe whose router renormalises."""
    raw, weights = released(folder)
    names = (
        "decoder_sparse_step",
        "mlp_only_layers",
        "moe_intermediate_size",
        "num_experts",
        "num_experts_per_tok",
    )
    config = Qwen3MoeConfig(
        **common(raw),
        **{name: raw[name] for name in names},
        attention_bias=False,
        norm_topk_prob=renormalize,
    )
    return build(Qwen3MoeForCausalLM, config, stack_experts(weights), dtype)
