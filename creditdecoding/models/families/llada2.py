"""Family LLaDA2 (inclusionAI/LLaDA2.0-mini, -flash, LLaDA2.1-mini, -flash): block-causal, half of
each head rotated, grouped sigmoid router.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models.families.qwen import QWEN
from creditdecoding.models.hf_config import ConfigReader
from creditdecoding.models.weights import Rename, stacked

ARCHITECTURES = ("LLaDA2MoeModelLM",)

MODEL_TYPES = ("llada2_moe", "llada2_moe_veomni", "llada21_moe")

UNUSED = ("sliding_window", "use_qk_norm")
"""Keys of the released files that the network does not use; the tensors say that there are norms.
"""

BLOCK = 32
"""Block length of the released checkpoints; it is in no file."""

_LAYER = "model.layers.{n}"

RENAME: Rename = {
    **QWEN,
    "embed.weight": "model.word_embeddings.weight",
    **stacked(
        f"{_LAYER}.attention.query_key_value.weight",
        "layers.{n}.q.weight",
        "layers.{n}.k.weight",
        "layers.{n}.v.weight",
    ),
    "layers.{n}.o.weight": f"{_LAYER}.attention.dense.weight",
    "layers.{n}.q_norm.weight": f"{_LAYER}.attention.query_layernorm.weight",
    "layers.{n}.k_norm.weight": f"{_LAYER}.attention.key_layernorm.weight",
    "layers.{n}.mlp.bias": f"{_LAYER}.mlp.gate.expert_bias",
    **{
        f"layers.{{n}}.mlp.shared.{x}.weight": f"{_LAYER}.mlp.shared_experts.{x}_proj.weight"
        for x in ("gate", "up", "down")
    },
}

# Fields that change the forward pass, with the only value implemented here; an absent field means
# that value.
_FIXED: dict[str, Any] = {
    "moe_router_enable_expert_bias": True,
    "norm_head": False,
    "norm_softmax": False,
    "num_nextn_predict_layers": 0,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "use_bias": False,
    "use_qkv_bias": False,
}

_UNI_ROWS = 173568


def from_hf(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Read a released config.json. Raises `CheckpointError` for a missing field or one whose value
    is not implemented.
    """
    fields = ConfigReader(raw, generation)
    if raw.get("image_token_offset") is not None or raw.get("vocab_size") == _UNI_ROWS:
        raise CheckpointError(
            "LLaDA2.0-Uni writes images too and is not implemented",
            hint="Use LLaDA2.0-mini, -flash or LLaDA2.1.",
        )
    fields.require_values(_FIXED)
    fields.require("moe_intermediate_size", "routed_scaling_factor", "n_group", "topk_group")
    moe = fields.moe_config(
        "moe_intermediate_size",
        shared_size=fields.integer("moe_intermediate_size")
        * fields.integer("num_shared_experts", 0, least=0),
        dense_layers=fields.integer("first_k_dense_replace", 0, least=0),
        score="sigmoid",
        renormalize=fields.boolean("norm_topk_prob", True),
        scaling=fields.number("routed_scaling_factor"),
        groups=fields.integer("n_group"),
        top_groups=fields.integer("topk_group"),
        bias=True,
        router_float32=True,
    )
    return fields.model_config(
        "llada2",
        qk_norm=True,
        moe=moe,
        rotary_dim=_rotary(fields),
        causal_block=fields.causal_block(BLOCK),
    )


def _rotary(fields: ConfigReader) -> int:
    """How many dimensions of a head are rotated: a share of them, or their number; the two must
    agree.
    """
    share, count = fields.rope()[1], fields.config.get("rotary_dim")
    if share is None and count is None:
        fields.require("partial_rotary_factor")
    head = fields.integer(
        "head_dim", fields.integer("hidden_size") // fields.integer("num_attention_heads")
    )
    found = fields.integer("rotary_dim") if share is None else int(head * share)
    if (count is not None and count != found) or found > head or found % 2:
        raise CheckpointError(
            "config.json: partial_rotary_factor and rotary_dim do not agree",
            given=(share, count, head),
            hint=fields.hint,
        )
    return found
