"""LLaDA dense (GSAI-ML/LLaDA-8B-Base, -Instruct, LLaDA-1.5, iLLaDA-8B)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models.hf_config import ConfigReader

ARCHITECTURES = ("LLaDAModelLM",)

MODEL_TYPES = ("llada",)

UNUSED = ("alibi_bias_max", "attention_layer_norm_with_affine")
"""Keys of released files that the network ignores."""

RENAME = {
    "embed.weight": "model.transformer.wte.weight",
    "layers.{n}.attn_norm.weight": "model.transformer.blocks.{n}.attn_norm.weight",
    "layers.{n}.q.weight": "model.transformer.blocks.{n}.q_proj.weight",
    "layers.{n}.k.weight": "model.transformer.blocks.{n}.k_proj.weight",
    "layers.{n}.v.weight": "model.transformer.blocks.{n}.v_proj.weight",
    "layers.{n}.o.weight": "model.transformer.blocks.{n}.attn_out.weight",
    "layers.{n}.ff_norm.weight": "model.transformer.blocks.{n}.ff_norm.weight",
    "layers.{n}.mlp.gate.weight": "model.transformer.blocks.{n}.ff_proj.weight",
    "layers.{n}.mlp.up.weight": "model.transformer.blocks.{n}.up_proj.weight",
    "layers.{n}.mlp.down.weight": "model.transformer.blocks.{n}.ff_out.weight",
    "norm.weight": "model.transformer.ln_f.weight",
    "head.weight": "model.transformer.ff_out.weight",
}

# Fields that change the forward pass, with the only implemented value; absent fields mean it.
_FIXED: dict[str, Any] = {
    "rope": True,
    "alibi": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_layer_norm": False,
    "clip_qkv": None,
    "rope_scaling": None,
}

NEEDED = (
    "d_model",
    "n_layers",
    "n_heads",
    "vocab_size",
    "max_sequence_length",
    "rope_theta",
    "rms_norm_eps",
    "eos_token_id",
)


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError`."""
    reader = ConfigReader(raw, generation)
    reader.require_values(_FIXED)
    reader.require(*NEEDED)
    hidden, heads = reader.integer("d_model"), reader.integer("n_heads")
    kv_heads = reader.integer("n_kv_heads", heads)
    if reader.boolean("multi_query_attention", False):
        kv_heads = 1
    if hidden % heads or heads % kv_heads:
        raise CheckpointError(
            "config.json: heads do not divide",
            given=(hidden, heads, kv_heads),
            hint="n_heads must divide d_model, and n_kv_heads must divide n_heads.",
        )
    feed_forward = reader.integer("mlp_ratio", 4) * hidden
    stop_ids = reader.stop_token_ids()
    return ModelConfig(
        family="llada",
        hidden_size=hidden,
        num_layers=reader.integer("n_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate_size=reader.integer("mlp_hidden_size", feed_forward),
        embedding_rows=reader.integer("embedding_size", reader.integer("vocab_size")),
        max_length=reader.integer("max_sequence_length"),
        rope_theta=reader.number("rope_theta"),
        rms_norm_eps=reader.number("rms_norm_eps"),
        tie_embeddings=reader.boolean("weight_tying", False),
        rope_full_precision=reader.boolean("rope_full_precision", True),
        mask_token_id=reader.token_id("mask_token_id"),
        stop_token_ids=stop_ids,
        pad_token_id=reader.pad_token_id(stop_ids),
    )


def to_hf(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The config.json with which other LLaDA code loads our weights.

    `from_hf` of it returns `config`.
    """
    fixed = {name: value for name, value in _FIXED.items() if value is not None}
    stop_ids = config.stop_token_ids
    return {
        "architectures": [ARCHITECTURES[0]],
        "model_type": "llada",
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        **fixed,
        "d_model": config.hidden_size,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "mlp_ratio": 4,
        "mlp_hidden_size": config.intermediate_size,
        "embedding_size": config.embedding_rows,
        "vocab_size": config.embedding_rows,
        "max_sequence_length": config.max_length,
        "rope_theta": config.rope_theta,
        "rope_full_precision": config.rope_full_precision,
        "rms_norm_eps": config.rms_norm_eps,
        "weight_tying": config.tie_embeddings,
        "multi_query_attention": None,
        "mask_token_id": config.mask_token_id,
        "eos_token_id": list(stop_ids) if len(stop_ids) > 1 else stop_ids[0],
        "pad_token_id": config.pad_token_id,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "init_device": "meta",
        "use_cache": False,
        "torch_dtype": dtype,
    }
