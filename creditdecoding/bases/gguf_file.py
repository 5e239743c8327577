"""A GGUF file into a checkpoint folder of the released layout: config.json, safetensors, tokenizer.

Quantised weights become bfloat16. llama.cpp keeps the rows of Llama's queries and keys in another
order (interleaved halves, convert_hf_to_gguf.py); that is undone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from creditdecoding.bases.gguf_tokenizer import tokenizer_files
from creditdecoding.errors import CheckpointError

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes in all."""

CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

SHARD_BYTES = 2**31
"""Bytes of a weight file, at most (or one tensor)."""

_TABLES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")

_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
# Read below, or said by the tensors' shapes.
_KNOWN = {
    *_SIZES,
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
}
_HINT = "Use a safetensors release of the model."


@dataclass(frozen=True)
class GGUFFile:
    """An opened GGUF file: its metadata, and its tensors as the package `gguf` describes them."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """llama, qwen2 or qwen3."""
        return str(self.metadata["general.architecture"])

    def number(self, name: str, default: Any = None) -> Any:
        """A field of the architecture. Raises `CheckpointError` if it is missing."""
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        if value is None:
            raise CheckpointError(
                f"the GGUF file has no {self.architecture}.{name}", given=str(self.path), hint=_HINT
            )
        return value


def open_gguf(path: Path) -> GGUFFile:
    """Open a GGUF file. Raises `CheckpointError`."""
    try:
        reader = gguf.GGUFReader(str(path))
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # whatever numpy raises on a short file
        raise CheckpointError(
            f"{path.name} is truncated or not GGUF",
            given=f"{path}, {path.stat().st_size:,} bytes",
            hint="Download the file again.",
        ) from error
    file = GGUFFile(path, metadata, {tensor.name: tensor for tensor in reader.tensors})
    _check_supported(file)
    return file


def _check_supported(file: GGUFFile) -> None:
    """Refuse other networks, and fields that may change this one."""
    name = file.metadata.get("general.architecture")
    if name not in CLASSES:
        raise CheckpointError(
            "the network of this GGUF file is not implemented",
            given=name,
            allowed=", ".join(CLASSES),
            hint="Use a Llama, Qwen2 or Qwen3 model.",
        )
    prefix = f"{name}."
    own = {key.removeprefix(prefix) for key in file.metadata if key.startswith(prefix)}
    unknown = sorted(own - _KNOWN)
    if unknown:
        raise CheckpointError(
            "the GGUF file has fields that may change the network and are not implemented",
            given=", ".join(unknown)[:200],
            hint=_HINT,
        )


def convert_gguf(path: Path, folder: Path, on_progress: Progress | None = None) -> None:
    """Write the model of a GGUF file into `folder`, which must exist. Raises `CheckpointError`."""
    file = open_gguf(path)
    tokenizer, settings = tokenizer_files(file.metadata)
    config = hf_config(file)
    settings["model_max_length"] = config["max_position_embeddings"]
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "config.json", config)
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = {name: config[name] for name in special if name in config}
    _write_json(folder / "generation_config.json", generation)
    _write_weights(file, folder, on_progress)


def hf_config(file: GGUFFile) -> dict[str, Any]:
    """The fields of config.json. Raises `CheckpointError`."""
    head_count = file.number("attention.head_count")
    config = {
        "architectures": [CLASSES[file.architecture]],
        "model_type": file.architecture,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **{ours: file.number(name) for name, ours in _SIZES.items()},
        "num_key_value_heads": file.number("attention.head_count_kv", head_count),
        "head_dim": _head_dim(file),
        "rms_norm_eps": _short(file.number("attention.layer_norm_rms_epsilon")),
        "rope_theta": _short(file.number("rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "vocab_size": int(_tensor(file, "token_embd.weight").shape[1]),
        "dtype": "bfloat16",
        "use_sliding_window": False,
    }
    for name in ("bos", "eos", "padding"):
        token_id = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if token_id is not None:
            config[f"{name.removesuffix('ding')}_token_id"] = int(token_id)
    return config


def _head_dim(file: GGUFFile) -> int:
    """Size of a head, all of which is rotated."""
    even = file.number("embedding_length") // file.number("attention.head_count")
    size = file.number("attention.key_length", even)
    rotated = file.number("rope.dimension_count", size)
    if rotated != size or file.number("attention.value_length", size) != size:
        raise CheckpointError(
            "heads of which a part is rotated are not implemented",
            given=(size, rotated),
            hint=_HINT,
        )
    return int(size)


def _tensor(file: GGUFFile, name: str) -> Any:
    if name not in file.tensors:
        raise CheckpointError(
            f"the GGUF file has no tensor {name}",
            given=str(file.path),
            hint="Download the file again.",
        )
    return file.tensors[name]


def _short(number: float) -> float:
    """The shortest decimal of a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def released_name(name: str) -> str:
    """The released name of a GGUF tensor. Raises `CheckpointError` for an unknown one."""
    match = _LAYER_TENSOR.fullmatch(name)
    if name in _TABLES:
        return _TABLES[name]
    if match is None or match[2] not in _MODULES:
        raise CheckpointError(
            "the GGUF file has a tensor that is not implemented", given=name, hint=_HINT
        )
    return f"model.layers.{match[1]}.{_MODULES[match[2]]}.{match[3]}"


def _write_weights(file: GGUFFile, folder: Path, on_progress: Progress | None) -> None:
    """Write all tensors as bfloat16, in files of at most `SHARD_BYTES`, with an index if several
    are needed.
    """
    names = {name: released_name(name) for name in file.tensors}
    shards = list(_shards(file))
    total = sum(_bytes(tensor) for tensor in file.tensors.values())
    done = 0
    weight_map: dict[str, str] = {}
    for title, shard in zip(_titles(len(shards)), shards):
        tensors = {}
        for name in shard:
            tensors[names[name]] = read_tensor(file, name)
            done += _bytes(file.tensors[name])
            if on_progress is not None:
                on_progress(done, total)
        weight_map |= dict.fromkeys(tensors, title)
        save_file(tensors, str(folder / title), metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _titles(count: int) -> list[str]:
    """The names of weight files."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _bytes(tensor: Any) -> int:
    return 2 * int(tensor.n_elements)


def _shards(file: GGUFFile) -> Iterator[list[str]]:
    """The names of the tensors of each weight file."""
    shard: list[str] = []
    size = 0
    for name, tensor in file.tensors.items():
        if shard and size + _bytes(tensor) > SHARD_BYTES:
            yield shard
            shard = []
            size = 0
        shard.append(name)
        size += _bytes(tensor)
    yield shard


def read_tensor(file: GGUFFile, name: str) -> Tensor:
    """A tensor in bfloat16, its rows in the released order. Raises `CheckpointError`."""
    tensor = file.tensors[name]
    try:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise CheckpointError(
            f"the quantisation of {name} is not implemented",
            given=tensor.tensor_type.name,
            allowed="what the package gguf can read: Q4_0, Q4_1, Q8_0, K-quants, F16, ...",
            hint=_HINT,
        ) from error
    kind = name.rsplit(".", 2)[-2]
    if file.architecture == "llama" and kind in ("attn_q", "attn_k"):
        heads = "attention.head_count" if kind == "attn_q" else "attention.head_count_kv"
        values = _halves_apart(values, file.number(heads, file.number("attention.head_count")))
    return torch.tensor(values).to(torch.bfloat16)


def _halves_apart(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head: first halves, then second halves, from interleaved ones."""
    size = values.shape[0] // heads
    rows = values.reshape(heads, size // 2, 2, *values.shape[1:])
    return rows.swapaxes(1, 2).reshape(values.shape)
