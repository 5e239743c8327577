"""Writes a tiny random checkpoint in a family's released file format, so that loaders are tested without any download.

    python -m tests.make_checkpoint llada DIR [--kv-heads 2] [--tied] [--bf16] [--shards 2] [--seed 0]

Written from the published facts alone: it shares no code with the package, which it tests. A field of the released
config.json can be changed by name in `make`; the tensor table follows it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

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
# Behind the byte-pair vocabulary, in the released order, with few of the reserved tokens in between.
SPECIAL = (BOS, EOS, "<|reserved_token_0|>", "<|reserved_token_1|>", MASK, "<|reserved_token_2|>", START_HEADER, END_HEADER, EOT)

LLADA_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)

_TEXTS = (
    "The capital of Peru is Lima. The language of Japan is Japanese.",
    "Tom has 12 apples and gives 5 to Ann. How many apples does Tom have now?",
    "Diffusion language models write many tokens in one forward pass; what they trust they write first.",
    "def f(xs):\n    total = 0\n    for x in xs:\n        if x > 3:\n            total += x\n    return total",
)


def llada_table(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a LLaDA checkpoint with this config.json has."""
    size, inner = config["d_model"], config["mlp_hidden_size"]
    rows = config["embedding_size"] or config["vocab_size"]
    kv = size // config["n_heads"] * (config["n_kv_heads"] or config["n_heads"])
    top = "model.transformer."
    table: dict[str, tuple[int, ...]] = {f"{top}wte.weight": (rows, size), f"{top}ln_f.weight": (size,)}
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
    """A byte-level BPE over a few sentences with LLaDA's special tokens behind it; plain encoding puts bos first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)])
    return tokenizer


def random_weights(table: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random tensors for `table`: norms near 1 but not 1, matrices of scale 1/sqrt(fan-in), embeddings of scale 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in table.items():
        noise = torch.randn(shape, generator=generator)
        scaled = 1 + 0.2 * noise if len(shape) == 1 else noise if name.endswith("wte.weight") else noise * shape[1] ** -0.5
        found[name] = scaled.to(dtype)
    return found


def write_weights(weights: dict[str, Tensor], folder: Path, shards: int) -> None:
    """Write `weights` as one file, or as `shards` files with an index, named as the hub names them."""
    if shards == 1:
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        return
    names = list(weights)
    where: dict[str, str] = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        save_file({name: weights[name] for name in mine}, str(folder / file), metadata={"format": "pt"})
        where |= dict.fromkeys(mine, file)
    size = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})


def write_json(path: Path, content: object) -> None:
    """Write JSON as the hub's files have it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _llada(folder: Path, seed: int, bf16: bool, shards: int, changes: dict[str, Any]) -> None:
    tokenizer = llada_tokenizer()
    ids = {text: tokenizer.token_to_id(text) for text in SPECIAL}
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
    config = {**LLADA_8B, **tiny, **changes}
    write_json(folder / "config.json", config)
    generation = {"_from_model_config": True, "bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "transformers_version": "4.46.3"}
    write_json(folder / "generation_config.json", generation)
    write_weights(random_weights(llada_table(config), seed, torch.bfloat16 if bf16 else torch.float32), folder, shards)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    write_json(folder / "special_tokens_map.json", {role: {"content": text, **flags} for role, text in roles.items()})
    described = {
        "added_tokens_decoder": {str(i): {"content": text, **flags, "special": True} for text, i in ids.items()},
        **roles,
        "chat_template": LLADA_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "fast_tokenizer": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", described)


_WRITERS = {"llada": _llada}


def make(family: str, folder: Path, *, seed: int = 0, bf16: bool = False, shards: int = 1, **changes: Any) -> Path:
    """Write a tiny checkpoint of `family` into `folder`, fields of its config.json changed by `changes`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[family](folder, seed, bf16, shards, changes)
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.make_checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(_WRITERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kv-heads", type=int, default=4, help="key and value heads; 4 query heads share them")
    parser.add_argument("--tied", action="store_true", help="no head of its own: the embedding serves")
    parser.add_argument("--bf16", action="store_true", help="weights in bfloat16")
    parser.add_argument("--shards", type=int, default=1, help="weight files; above 1 with an index")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    changes = {"n_kv_heads": given.kv_heads, "weight_tying": given.tied}
    print(make(given.family, given.folder, seed=given.seed, bf16=given.bf16, shards=given.shards, **changes))


if __name__ == "__main__":
    main()
