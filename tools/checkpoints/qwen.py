"""Dream, SDAR and Fast-dLLM v2, as released: Qwen's tensor names, tokenizers and config fields with
their own classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.checkpoints import templates, tiny_tokenizers
from tools.checkpoints.files import CheckpointSpec, Table, write_json, write_model

# config.json of apple/DiffuCoder-7B-Instruct.
DREAM_7B: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_dream.DreamConfig",
        "AutoModel": "modeling_dream.DreamModel",
    },
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "Dream",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}

# config.json of JetLM/SDAR-4B-Chat.
SDAR_4B: dict[str, Any] = {
    "architectures": ["SDARForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_implementation": "flex_attention",
    "auto_map": {
        "AutoConfig": "configuration_sdar.SDARConfig",
        "AutoModel": "modeling_sdar.SDARModel",
        "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
    },
    "bos_token_id": 151643,
    "debug": False,
    "eos_token_id": 151643,
    "ep_size": 1,
    "fuse_cross_entropy": True,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 32768,
    "max_window_layers": 36,
    "micro_forward": False,
    "model_type": "sdar",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "skip_checkpoint": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_deepep": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

# What is expected of JetLM/SDAR-30B-A3B-Chat, from Qwen3-30B-A3B; the file itself was not seen.
SDAR_30B: dict[str, Any] = {
    **SDAR_4B,
    "architectures": ["SDARMoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "mlp_only_layers": [],
    "model_type": "sdar_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
}

# config.json of Efficient-Large-Model/Fast_dLLM_v2_7B; eps, theta and rows as in Qwen2.5-7B.
FAST_DLLM_7B: dict[str, Any] = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
        "AutoModel": "modeling.Fast_dLLM_QwenModel",
        "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
    },
    "bd_size": 32,
    "bos_token_id": 151643,
    "conplemenrary_mask": True,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "layer_types": ["full_attention"] * 28,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "Fast_dLLM_Qwen",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151645,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK = ("<think>", "</think>")
TOOLS = ("<tool_call>", "</tool_call>")
DREAM_SPECIAL = (END, START_TURN, END_TURN, *TOOLS, "<|beginoftext|>", "<|mask|>")
SDAR_SPECIAL = (END, START_TURN, END_TURN, *TOOLS, *THINK, "<|MASK|>")
FAST_SPECIAL = (END, START_TURN, END_TURN, *TOOLS, "|<MASK>|")
PLAIN = (*TOOLS, *THINK)

TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "vocab_size": 384,
}
TINY_MOE = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}


def qwen_table(config: dict[str, Any]) -> Table:
    """Name and shape of every tensor of a checkpoint with Qwen's names, experts separately."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    dim = config.get("head_dim") or hidden // heads
    rows = {"q": heads * dim, **dict.fromkeys("kv", (config["num_key_value_heads"] or heads) * dim)}
    is_sdar, is_moe = config["architectures"][0].startswith("SDAR"), "num_experts" in config
    table: Table = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        for x, count in rows.items():
            table[f"{layer}.self_attn.{x}_proj.weight"] = (count, hidden)
            if not is_sdar:
                table[f"{layer}.self_attn.{x}_proj.bias"] = (count,)
        table[f"{layer}.self_attn.o_proj.weight"] = (hidden, heads * dim)
        if is_sdar:
            table |= {f"{layer}.self_attn.{x}_norm.weight": (dim,) for x in "qk"}
        table |= {
            f"{layer}.{norm}.weight": (hidden,)
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        inner = config["moe_intermediate_size"] if is_moe else config["intermediate_size"]
        feed_forwards = [f"{layer}.mlp"]
        if is_moe:
            feed_forwards = [f"{layer}.mlp.experts.{j}" for j in range(config["num_experts"])]
        for name in feed_forwards:
            table[f"{name}.gate_proj.weight"] = (inner, hidden)
            table[f"{name}.up_proj.weight"] = (inner, hidden)
            table[f"{name}.down_proj.weight"] = (hidden, inner)
        if is_moe:
            table[f"{layer}.mlp.gate.weight"] = (config["num_experts"], hidden)
    table["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        table["lm_head.weight"] = (config["vocab_size"], hidden)
    return table


def write_dream(folder: Path, spec: CheckpointSpec) -> None:
    """Write every file of a Dream checkpoint.

    Its tokenizer is a vocabulary and merges with its own class; there is no tokenizer.json.
    """
    tokenizer = tiny_tokenizers.qwen_bpe(DREAM_SPECIAL, plain=PLAIN)
    ids = tiny_tokenizers.added_ids(tokenizer, DREAM_SPECIAL)
    bos = "<|beginoftext|>"
    known = {
        "mask_token_id": ids["<|mask|>"],
        "eos_token_id": ids[END],
        "bos_token_id": ids[END],
        "pad_token_id": ids[END],
    }
    config = {**DREAM_7B, **TINY, **known, **spec.changes}
    write_json(folder / "config.json", config)
    sampler = {
        "alg": "origin",
        "alg_temp": None,
        "eps": 0.001,
        "mask_token_id": ids["<|mask|>"],
        "steps": 512,
        "temperature": 0.0,
    }
    write_json(
        folder / "generation_config.json",
        {**sampler, **{k: v for k, v in known.items() if k != "mask_token_id"}},
    )
    write_model(folder, qwen_table(config), spec)
    tiny_tokenizers.write_vocab_and_merges(folder, tokenizer, dict(reversed(ids.items())))
    roles = {"bos_token": bos, "eos_token": END, "mask_token": "<|mask|>", "pad_token": END}
    tiny_tokenizers.write_special_tokens_map(folder, roles)
    more = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": [START_TURN, END_TURN, bos, "<|mask|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "chat_template": templates.DREAM,
        "errors": "replace",
        "model_max_length": 131072,
        "split_special_tokens": False,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    write_json(
        folder / "tokenizer_config.json",
        tiny_tokenizers.tokenizer_config(ids, roles, PLAIN, **more),
    )


def write_sdar(folder: Path, spec: CheckpointSpec, base: dict[str, Any] = SDAR_4B) -> None:
    """Write every file of an SDAR checkpoint.

    The mask token has two names for one id, and no file has the block length.
    """
    tokenizer = tiny_tokenizers.qwen_bpe(SDAR_SPECIAL, plain=PLAIN)
    ids = tiny_tokenizers.added_ids(tokenizer, SDAR_SPECIAL)
    tiny = {
        **TINY,
        "head_dim": 16,
        "eos_token_id": ids[END],
        "bos_token_id": ids[END],
        **(TINY_MOE if "num_experts" in base else {}),
    }
    config = {**base, **tiny, **spec.changes}
    write_json(folder / "config.json", config)
    ends = {
        "bos_token_id": ids[END],
        "eos_token_id": [ids[END_TURN], ids[END]],
        "pad_token_id": ids[END],
    }
    write_json(
        folder / "generation_config.json",
        {**ends, "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95},
    )
    write_model(folder, qwen_table(config), spec)
    other = {("<MASK>" if text == "<|MASK|>" else text): i for text, i in ids.items()}
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    file.write_text(
        file.read_text(encoding="utf-8").replace("<|MASK|>", "<MASK>"), encoding="utf-8"
    )
    tiny_tokenizers.write_vocab_and_merges(folder, tokenizer, other)
    roles = {"eos_token": END, "mask_token": "<|MASK|>", "pad_token": END}
    tiny_tokenizers.write_special_tokens_map(folder, {**roles, "mask_token": "<MASK>"})
    more = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": [START_TURN, END_TURN, "<|MASK|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_qwen2.Qwen2Tokenizer", None]},
        "bos_token": None,
        "chat_template": templates.QWEN3,
        "model_max_length": 131072,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(
        folder / "tokenizer_config.json",
        tiny_tokenizers.tokenizer_config(ids, roles, PLAIN, **more),
    )


def write_sdar_moe(folder: Path, spec: CheckpointSpec) -> None:
    """Write every file of an SDAR checkpoint with experts."""
    write_sdar(folder, spec, SDAR_30B)


def write_fast_dllm(folder: Path, spec: CheckpointSpec) -> None:
    """Write every file of a Fast-dLLM v2 checkpoint: no mask id in config.json."""
    tokenizer = tiny_tokenizers.qwen_bpe(FAST_SPECIAL, plain=PLAIN)
    ids = tiny_tokenizers.added_ids(tokenizer, FAST_SPECIAL)
    known = {"bos_token_id": ids[END], "eos_token_id": ids[END_TURN], "pad_token_id": ids[END_TURN]}
    config = {
        **FAST_DLLM_7B,
        **TINY,
        "layer_types": ["full_attention"] * 2,
        **known,
        **spec.changes,
    }
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {**known, "eos_token_id": [ids[END_TURN], ids[END]], "temperature": 0.7, "top_p": 0.8},
    )
    write_model(folder, qwen_table(config), spec)
    tokenizer.save(str(folder / "tokenizer.json"))
    tiny_tokenizers.write_vocab_and_merges(folder, tokenizer, ids)
    roles = {"eos_token": END_TURN, "mask_token": "|<MASK>|", "pad_token": END}
    tiny_tokenizers.write_special_tokens_map(folder, roles)
    more = {
        "add_prefix_space": False,
        "additional_special_tokens": [START_TURN, END_TURN, "|<MASK>|"],
        "bos_token": None,
        "chat_template": templates.QWEN25,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(
        folder / "tokenizer_config.json",
        tiny_tokenizers.tokenizer_config(ids, roles, PLAIN, **more),
    )
