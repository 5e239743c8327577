"""LLaDA-MoE and LLaDA2, as inclusionAI releases them: one tokenizer, two networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.checkpoints import templates, tiny_tokenizers
from tools.checkpoints.files import CheckpointSpec, Table, write_json, write_model

# What is known of config.json of inclusionAI/LLaDA-MoE-7B-A1B-Instruct.
LLADA_MOE: dict[str, Any] = {
    "architectures": ["LLaDAMoEModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_lladamoe.LLaDAConfig",
        "AutoModel": "modeling_lladamoe.LLaDAMoEModelLM",
    },
    "clip_qkv": None,
    "dense_intermediate_size": 8192,
    "eos_token_id": 156892,
    "expert_intermediate_size": 1024,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "max_position_embeddings": 8192,
    "model_type": "llada",
    "moe_layer_freq": [1] * 16,
    "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax",
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "pad_token_id": 156892,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 50000,
    "routed_scaling_factor": 1,
    "router_num_group": None,
    "router_topk_group": None,
    "shared_expert_intermediate_size": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 157184,
}

# config.json of inclusionAI/LLaDA2.1-mini.
LLADA2_MINI: dict[str, Any] = {
    "architectures": ["LLaDA2MoeModelLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
        "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    },
    "dtype": "bfloat16",
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "llada2_moe",
    "moe_intermediate_size": 512,
    "moe_router_enable_expert_bias": True,
    "n_group": 8,
    "norm_head": False,
    "norm_softmax": False,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 20,
    "num_key_value_heads": 4,
    "num_shared_experts": 1,
    "pad_token_id": 156892,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 600000,
    "rotary_dim": 64,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "use_bias": False,
    "use_qkv_bias": False,
    "use_sliding_window": False,
    "vocab_size": 157184,
}

LLADA2_FLASH: dict[str, Any] = {
    **LLADA2_MINI,
    "hidden_size": 4096,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
}

BOS, EOS, MASK, ROLE_END = "<|startoftext|>", "<|endoftext|>", "<|mask|>", "<|role_end|>"
SPECIAL = (
    BOS,
    EOS,
    "[CLS]",
    "[gMASK]",
    MASK,
    "<|reserved_token_1|>",
    ROLE_END,
    "<|reserved_token_2|>",
)


def _mlp(top: str, hidden: int, width: int) -> Table:
    return {
        f"{top}.{x}_proj.weight": (hidden, width) if x == "down" else (width, hidden)
        for x in ("gate", "up", "down")
    }


def llada_moe_table(config: dict[str, Any]) -> Table:
    """Name and shape of every tensor of a LLaDA-MoE checkpoint, experts separately."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    dim = hidden // heads
    kv = dim * config["num_key_value_heads"]
    table: Table = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        table |= {
            f"{layer}.{norm}.weight": (hidden,)
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        table |= {
            f"{layer}.self_attn.{x}_proj.weight": (kv if x in "kv" else hidden, hidden)
            for x in "qkvo"
        }
        table |= {f"{layer}.self_attn.{x}_norm.weight": (dim,) for x in "qk"}
        table[f"{layer}.mlp.gate.weight"] = (config["num_experts"], hidden)
        for j in range(config["num_experts"]):
            table |= _mlp(f"{layer}.mlp.experts.{j}", hidden, config["expert_intermediate_size"])
    return {
        **table,
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }


def llada2_table(config: dict[str, Any]) -> Table:
    """Name and shape of every tensor of a LLaDA2 checkpoint, experts separately."""
    hidden, dim, heads = config["hidden_size"], config["head_dim"], config["num_attention_heads"]
    fused = (heads + 2 * (config["num_key_value_heads"] or heads)) * dim
    table: Table = {"model.word_embeddings.weight": (config["vocab_size"], hidden)}
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        table |= {
            f"{layer}.{norm}.weight": (hidden,)
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        table[f"{layer}.attention.query_key_value.weight"] = (fused, hidden)
        table[f"{layer}.attention.dense.weight"] = (hidden, heads * dim)
        table |= {f"{layer}.attention.{x}_layernorm.weight": (dim,) for x in ("query", "key")}
        if n < config["first_k_dense_replace"]:
            table |= _mlp(f"{layer}.mlp", hidden, config["intermediate_size"])
            continue
        table[f"{layer}.mlp.gate.weight"] = (config["num_experts"], hidden)
        table[f"{layer}.mlp.gate.expert_bias"] = (config["num_experts"],)
        for j in range(config["num_experts"]):
            table |= _mlp(f"{layer}.mlp.experts.{j}", hidden, config["moe_intermediate_size"])
        table |= _mlp(
            f"{layer}.mlp.shared_experts",
            hidden,
            config["moe_intermediate_size"] * config["num_shared_experts"],
        )
    return {
        **table,
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }


def _write_tokenizer(folder: Path, jinja: bool) -> dict[str, int]:
    tokenizer = tiny_tokenizers.byte_level_bpe(SPECIAL)
    ids = tiny_tokenizers.added_ids(tokenizer, SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    tiny_tokenizers.write_special_tokens_map(folder, roles)
    more = {
        "fast_tokenizer": True,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "trust_remote_code": True,
    }
    if jinja:
        (folder / "chat_template.jinja").write_text(templates.LING, encoding="utf-8")
        more["mask_token"] = MASK
    else:
        more["chat_template"] = templates.LING
    write_json(
        folder / "tokenizer_config.json", tiny_tokenizers.tokenizer_config(ids, roles, **more)
    )
    return ids


def write_llada_moe(folder: Path, spec: CheckpointSpec) -> None:
    """Write every file of a LLaDA-MoE checkpoint; no file says which token is the mask."""
    ids = _write_tokenizer(folder, jinja=False)
    tiny = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "expert_intermediate_size": 24,
        "dense_intermediate_size": 192,
        "moe_layer_freq": [1, 1],
        "max_position_embeddings": 256,
        "vocab_size": 384,
        "eos_token_id": ids[EOS],
        "pad_token_id": ids[EOS],
    }
    config = {**LLADA_MOE, **tiny, **spec.changes}
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, "eos_token_id": ids[EOS], "pad_token_id": ids[EOS]},
    )
    write_model(folder, llada_moe_table(config), spec)


def write_llada2(folder: Path, spec: CheckpointSpec) -> None:
    """Write every file of a LLaDA2 checkpoint; config.json has no end token and no block length."""
    ids = _write_tokenizer(folder, jinja=True)
    tiny = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rotary_dim": 16,
        "intermediate_size": 96,
        "moe_intermediate_size": 24,
        "num_experts": 16,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "max_position_embeddings": 256,
        "vocab_size": 384,
        "pad_token_id": ids[EOS],
    }
    config = {**LLADA2_MINI, **tiny, **spec.changes}
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json", {"_from_model_config": True, "pad_token_id": ids[EOS]}
    )
    write_model(folder, llada2_table(config), spec)
