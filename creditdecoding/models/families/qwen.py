"""Tensor names that most families share: those of Qwen2, Qwen3 and their mixtures of experts."""

from __future__ import annotations

from creditdecoding.models.weights import Rename, experts

_LAYER = "model.layers.{n}"

QWEN: Rename = {
    "embed.weight": "model.embed_tokens.weight",
    "layers.{n}.attn_norm.weight": f"{_LAYER}.input_layernorm.weight",
    **{
        f"layers.{{n}}.{x}.{kind}": f"{_LAYER}.self_attn.{x}_proj.{kind}"
        for x in "qkv"
        for kind in ("weight", "bias")
    },
    "layers.{n}.q_norm.weight": f"{_LAYER}.self_attn.q_norm.weight",
    "layers.{n}.k_norm.weight": f"{_LAYER}.self_attn.k_norm.weight",
    "layers.{n}.o.weight": f"{_LAYER}.self_attn.o_proj.weight",
    "layers.{n}.ff_norm.weight": f"{_LAYER}.post_attention_layernorm.weight",
    **{
        f"layers.{{n}}.mlp.{x}.weight": f"{_LAYER}.mlp.{x}_proj.weight"
        for x in ("gate", "up", "down")
    },
    "layers.{n}.mlp.router.weight": f"{_LAYER}.mlp.gate.weight",
    **experts(f"{_LAYER}.mlp.experts", "layers.{n}.mlp"),
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
