"""Tiny random Llama, Qwen2 and Qwen3 checkpoints, written by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tools.checkpoints.templates import QWEN25
from tools.checkpoints.tiny_tokenizers import byte_level_bpe

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, START_TURN, END_TURN, "<spare>")
SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def base_network(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random network of transformers, its vectors (norms, biases) random too.

    All values are bfloat16 ones, in float32.
    """
    config_class, model_class = CLASSES[kind]
    torch.manual_seed(seed)
    ids = {"bos_token_id": 300, "eos_token_id": 302, "pad_token_id": 302}
    extra = {"head_dim": 16} if kind == "qwen3" else {}
    model = model_class(config_class(**{**SIZES, **extra, **ids, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            is_vector = weight.dim() == 1
            weight.normal_(1.0 if is_vector else 0.0, 0.2)
            weight.copy_(weight.bfloat16())
    return model


def base_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 300 ids and `SPECIAL`, with a ChatML template."""
    backend = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(SPECIAL), eos_token=END_TURN, pad_token=END_TURN
    )
    backend.chat_template = QWEN25
    return backend


def write_base(folder: Path, kind: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Write such a network and tokenizer into `folder`."""
    base_network(kind, seed, **changes).save_pretrained(folder)
    base_tokenizer().save_pretrained(folder)
    return folder
