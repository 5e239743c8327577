"""LLaDA dense, as GSAI-ML/LLaDA-8B-Instruct is released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from tools.checkpoints import templates, tiny_tokenizers
from tools.checkpoints.files import CheckpointSpec, Table, write_json, write_model

# config.json of GSAI-ML/LLaDA-8B-Instruct.
LLADA_8B: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}

BOS, EOS, MASK = "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"
START_HEADER, END_HEADER, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
# After the byte-pair vocabulary, in the released order, with some of the reserved tokens.
SPECIAL = (
    BOS,
    EOS,
    "<|reserved_token_0|>",
    "<|reserved_token_1|>",
    MASK,
    "<|reserved_token_2|>",
    START_HEADER,
    END_HEADER,
    EOT,
)


def llada_table(config: dict[str, Any]) -> Table:
    """Name and shape of every tensor that a LLaDA checkpoint with this config.json has."""
    size, inner = config["d_model"], config["mlp_hidden_size"]
    rows = config["embedding_size"] or config["vocab_size"]
    kv = size // config["n_heads"] * (config["n_kv_heads"] or config["n_heads"])
    top = "model.transformer."
    table: Table = {f"{top}wte.weight": (rows, size), f"{top}ln_f.weight": (size,)}
    if not config["weight_tying"]:
        table[f"{top}ff_out.weight"] = (rows, size)
    for n in range(config["n_layers"]):
        block = f"{top}blocks.{n}."
        table |= {
            f"{block}attn_norm.weight": (size,),
            f"{block}q_proj.weight": (size, size),
            f"{block}k_proj.weight": (kv, size),
            f"{block}v_proj.weight": (kv, size),
            f"{block}attn_out.weight": (size, size),
            f"{block}ff_norm.weight": (size,),
            f"{block}ff_proj.weight": (inner, size),
            f"{block}up_proj.weight": (inner, size),
            f"{block}ff_out.weight": (size, inner),
        }
    return table


def llada_tokenizer() -> Tokenizer:
    """Byte pairs, then LLaDA's special tokens; plain encoding begins with bos."""
    tokenizer = tiny_tokenizers.byte_level_bpe(SPECIAL)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def write(folder: Path, spec: CheckpointSpec) -> None:
    """Write every file of a checkpoint."""
    tokenizer = llada_tokenizer()
    ids = tiny_tokenizers.added_ids(tokenizer, SPECIAL)
    tiny = {
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "mlp_hidden_size": 96,
        "vocab_size": 384,
        "embedding_size": 384,
        "max_sequence_length": 256,
        "eos_token_id": ids[EOS],
        "pad_token_id": ids[EOS],
        "mask_token_id": ids[MASK],
    }
    config = {**LLADA_8B, **tiny, **spec.changes}
    write_json(folder / "config.json", config)
    generation = {
        "_from_model_config": True,
        "bos_token_id": ids[BOS],
        "eos_token_id": ids[EOS],
        "transformers_version": "4.46.3",
    }
    write_json(folder / "generation_config.json", generation)
    write_model(folder, llada_table(config), spec)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    tiny_tokenizers.write_special_tokens_map(folder, roles)
    more = {
        "chat_template": templates.LLADA,
        "fast_tokenizer": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(
        folder / "tokenizer_config.json", tiny_tokenizers.tokenizer_config(ids, roles, **more)
    )
