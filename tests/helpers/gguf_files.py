"""Small GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from transformers import PreTrainedModel, PreTrainedTokenizerFast

F32 = GGMLQuantizationType.F32


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pre: str = "gpt-2",
    quantisation: GGMLQuantizationType = F32,
    fields: dict[str, int] | None = None,
) -> Path:
    """Write a network and a tokenizer, its matrices quantised; `fields` are further numbers."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim if config.model_type != "qwen2" else head_size(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for name, value in (fields or {}).items():
        writer.add_uint32(name, value)
    _add_tokenizer(writer, tokenizer, pre, config)
    for name, weight in model.state_dict().items():
        _add_tensor(writer, name, weight.float().numpy(), config, quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def head_size(config: Any) -> int:
    """The size of a head where the config does not say it."""
    return int(config.hidden_size // config.num_attention_heads)


def _add_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast, pre: str, config: Any
) -> None:
    added = tokenizer.added_tokens_decoder
    texts = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [TokenType.UNUSED] * len(texts)
    for text, token_id in tokenizer.get_vocab().items():
        texts[token_id], types[token_id] = text, TokenType.NORMAL
    for token_id, token in added.items():
        types[token_id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    values: np.ndarray[Any, Any],
    config: Any,
    quantisation: GGMLQuantizationType,
) -> None:
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return
    if config.model_type == "llama" and ".q_proj." in name:
        values = interleaved(values, config.num_attention_heads)
    if config.model_type == "llama" and ".k_proj." in name:
        values = interleaved(values, config.num_key_value_heads)
    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    title = names.get_name(name, try_suffixes=(".weight", ".bias"))
    dtype = quantisation if values.ndim == 2 else F32
    writer.add_tensor(title, gguf.quantize(values, dtype), raw_dtype=dtype)


def interleaved(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """The `permute` of llama.cpp's convert_hf_to_gguf.py."""
    rows = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return rows.swapaxes(1, 2).reshape(values.shape)
