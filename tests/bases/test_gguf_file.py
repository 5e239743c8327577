"""A GGUF file becomes the folder that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file

from creditdecoding.bases import gguf_file
from creditdecoding.bases.autoregressive_lm import load_base
from creditdecoding.bases.gguf_file import convert_gguf
from creditdecoding.config import EngineConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models.autoregressive import causal_logits
from tests.helpers.gguf_files import write_gguf
from tests.helpers.tiny_bases import CLASSES, base_network, base_tokenizer
from tools.checkpoints.tiny_tokenizers import qwen_bpe

ENGINE = EngineConfig(dtype="float32", device="cpu")
WIDE = {"hidden_size": 64, "head_dim": 16}


def converted(path: Path) -> Path:
    folder = path.parent / f"{path.stem}-folder"
    folder.mkdir()
    convert_gguf(path, folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "tied"), [("llama", True), ("qwen2", False), ("qwen3", True)], ids=str
)
def test_a_folder_from_gguf_computes_the_same(tmp_path: Path, kind: str, tied: bool) -> None:
    """Weights, permutation of queries and keys, config and ids."""
    assert kind in CLASSES
    network = base_network(kind, tie_word_embeddings=tied)
    path = write_gguf(tmp_path / "base.gguf", network, base_tokenizer())
    lm = load_base(str(converted(path)), ENGINE)
    tokens = torch.tensor([[5, 17, 200, 3, 44]])
    with torch.no_grad():
        torch.testing.assert_close(
            causal_logits(lm.model, tokens), network(tokens).logits, rtol=1e-4, atol=1e-5
        )
    assert lm.tokenizer.stop_ids == (302,) and lm.tokenizer.size == 304
    messages = [{"role": "user", "content": "Tom has 12 apples."}]
    expected = base_tokenizer().apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert lm.tokenizer.encode_chat(messages) == expected


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0", "F16", "BF16"])
def test_quantised_weights_are_near(tmp_path: Path, name: str) -> None:
    network = base_network("llama", **WIDE)
    quantisation = GGMLQuantizationType[name]
    path = write_gguf(tmp_path / "base.gguf", network, base_tokenizer(), "gpt-2", quantisation)
    weights = load_file(converted(path) / "model.safetensors")
    tolerance = {"Q4_0": 0.15, "Q4_1": 0.12}.get(name, 0.01)
    for weight_name in ("self_attn.q_proj", "mlp.down_proj"):
        title = f"model.layers.1.{weight_name}.weight"
        weight, exact = weights[title].float(), network.state_dict()[title]
        assert weights[title].dtype == torch.bfloat16
        assert float((weight - exact).norm() / exact.norm()) < tolerance


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_read(tmp_path: Path, name: str) -> None:
    """The package gguf only reads them, so the blocks are bytes of their size, scales small."""
    quantisation = GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[quantisation]
    blocks = np.random.default_rng(0).integers(0, 40, (3, 2 * size), dtype=np.uint8)
    tensor = gguf.ReaderTensor(
        "blk.0.ffn_up.weight", quantisation, np.array([2 * block, 3]), 6 * block, 0, 0, blocks, None
    )
    file = gguf_file.GGUFFile(tmp_path, {"general.architecture": "qwen2"}, {tensor.name: tensor})
    weight = gguf_file.read_tensor(file, tensor.name)
    assert weight.shape == (3, 2 * block) and weight.dtype == torch.bfloat16
    expected = torch.tensor(gguf.dequantize(blocks, quantisation)).bfloat16()
    assert torch.equal(weight, expected) and bool(weight.float().abs().sum() > 0)


TEXTS = [
    "Tom has 12 apples and gives 345 to Ann's friends;\n\n  total += x  ",
    "I'll say: ÄÖ e\u0301 日本語 😀 <|im_end|> <spare> Peru",
    "def f(xs):\n\treturn xs[10:]\r\n",
]


def test_ids_with_qwens_rule(tmp_path: Path) -> None:
    """Another way to split than GPT-2's, and normalisation."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<spare>")
    backend = base_tokenizer()
    backend._tokenizer = qwen_bpe(special, plain=("<spare>",))
    path = write_gguf(tmp_path / "base.gguf", base_network("qwen2"), backend, "qwen2")
    tokenizer = load_base(str(converted(path)), ENGINE).tokenizer
    for text in TEXTS:
        assert tokenizer.encode(text) == backend.encode(text)
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_smollm_splits_off_every_digit(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "base.gguf", base_network("llama"), base_tokenizer(), "smollm")
    tokenizer = load_base(str(converted(path)), ENGINE).tokenizer
    pieces = [tokenizer.token_text(i) for i in tokenizer.encode("has 12 apples")]
    assert pieces[-8:-2] != [] and "1" in pieces and "2" in pieces and "12" not in pieces
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode_plain(text)) == text


def test_several_weight_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "SHARD_BYTES", 40_000)
    network = base_network("llama")
    folder = converted(write_gguf(tmp_path / "base.gguf", network, base_tokenizer()))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    lm = load_base(str(folder), ENGINE)
    assert torch.equal(lm.model.embed.weight, network.state_dict()["model.embed_tokens.weight"])


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "base.gguf", base_network("llama"), base_tokenizer())
    data = whole.read_bytes()
    for length in (0, 3, 20, 5000, len(data) // 2, len(data) - 100):
        short = tmp_path / f"short{length}.gguf"
        short.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="truncated or not GGUF"):
            converted(short)
    (tmp_path / "other.gguf").write_bytes(b"safetensors" * 100)
    with pytest.raises(CheckpointError, match="truncated or not GGUF"):
        converted(tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("pre", "fields", "message"),
    [
        ("unheard", {}, "tokenizer is not implemented; got 'gpt2, unheard'"),
        ("gpt-2", {"llama.expert_count": 8}, "not implemented; got 'expert_count'"),
        ("gpt-2", {"llama.rope.dimension_count": 4}, "a part is rotated"),
    ],
)
def test_what_is_not_implemented_is_refused(
    tmp_path: Path, pre: str, fields: dict[str, int], message: str
) -> None:
    network = base_network("llama")
    path = write_gguf(tmp_path / "base.gguf", network, base_tokenizer(), pre, fields=fields)
    with pytest.raises(CheckpointError, match=message):
        converted(path)
