"""LLaDA dense against transformers' Llama on released-format files, and the way back: what we write
is what was released.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import creditdecoding
from creditdecoding.config import EngineConfig, ModelConfig
from creditdecoding.models import load_model, read_config
from creditdecoding.models.families import llada
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import save_weights
from tools.make_checkpoint import EOS, LLADA_8B, MASK, llada_table, llada_tokenizer, make

torch.set_num_threads(1)

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"n_kv_heads": 2},
    "one kv head": {"n_kv_heads": 1},
    "tied": {"weight_tying": True},
    "grouped and tied": {"n_kv_heads": 2, "weight_tying": True, "rope_theta": 10000.0},
}

# The released names beside transformers', straight from the published table.
LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
LLAMA_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


def llama_name(released: str) -> str:
    """transformers' name of a released tensor."""
    parts = released.split(".")
    if parts[2] == "blocks":
        return f"model.layers.{parts[3]}.{LLAMA_LAYER[parts[4]]}.weight"
    return f"{LLAMA_TOP[parts[2]]}.weight"


def oracle(folder: Path) -> LlamaForCausalLM:
    """transformers' Llama in float32 with the weights that lie in `folder`."""
    raw = json.loads((folder / "config.json").read_text())
    config = LlamaConfig(
        vocab_size=raw["embedding_size"],
        hidden_size=raw["d_model"],
        intermediate_size=raw["mlp_hidden_size"],
        num_hidden_layers=raw["n_layers"],
        num_attention_heads=raw["n_heads"],
        num_key_value_heads=raw["n_kv_heads"],
        max_position_embeddings=raw["max_sequence_length"],
        rms_norm_eps=raw["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
        attention_bias=False,
        tie_word_embeddings=raw["weight_tying"],
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    weights = {
        llama_name(name): w.float()
        for file in sorted(folder.glob("*.safetensors"))
        for name, w in load_file(file).items()
    }
    if raw["weight_tying"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True)
    return model.eval()


@torch.inference_mode()
def reference(model: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Logits [rows, length, vocab] of the oracle with full attention."""
    rows, length = tokens.shape
    return model(
        tokens, attention_mask=torch.zeros(rows, 1, length, length), use_cache=False
    ).logits


def everywhere(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Indices that read every position, row by row."""
    rows, length = tokens.shape
    return torch.arange(rows).repeat_interleave(length), torch.arange(length).repeat(rows)


@torch.inference_mode()
def ours(model: Transformer, tokens: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Logits [rows, length, vocab] of our transformer."""
    return model(tokens, everywhere(tokens), allowed).view(*tokens.shape, -1)


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Random ids of the tiny vocabulary."""
    return torch.randint(0, 384, shape, generator=torch.Generator().manual_seed(seed))


def load32(folder: Path) -> Transformer:
    """Our model in float32 on the CPU."""
    return load_model(folder, EngineConfig(device="cpu", dtype="float32"))


@pytest.fixture(
    scope="module", params=list(VARIANTS), ids=[name.replace(" ", "-") for name in VARIANTS]
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Transformer, LlamaForCausalLM]:
    """The same checkpoint in our transformer and in the oracle."""
    folder = make("llada", tmp_path_factory.mktemp("llada"), shards=2, **VARIANTS[request.param])
    return load32(folder), oracle(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny checkpoint, grouped heads."""
    return make("llada", tmp_path_factory.mktemp("llada"), n_kv_heads=2)


def test_one_row_equals_llama(pair: tuple[Transformer, LlamaForCausalLM]) -> None:
    model, llama = pair
    for length in (1, 2, 47):
        tokens = random_tokens(1, length, seed=length)
        expected = reference(llama, tokens)
        assert expected.std() > 0.3  # else closeness would say nothing
        torch.testing.assert_close(ours(model, tokens), expected, atol=1e-4, rtol=0)


def test_a_batch_equals_llama(pair: tuple[Transformer, LlamaForCausalLM]) -> None:
    model, llama = pair
    tokens = random_tokens(3, 20, seed=1)
    torch.testing.assert_close(ours(model, tokens), reference(llama, tokens), atol=1e-4, rtol=0)


def test_padded_rows_equal_llama_on_each_row_alone(
    pair: tuple[Transformer, LlamaForCausalLM],
) -> None:
    model, llama = pair
    lengths = [23, 7, 1, 16]
    tokens = random_tokens(
        len(lengths), max(lengths), seed=2
    )  # padding is random ids: it must not matter what it is
    allowed = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None]
    padded = ours(model, tokens, allowed)
    for row, length in enumerate(lengths):
        alone = reference(llama, tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(padded[row, :length], alone, atol=1e-4, rtol=0)
    unmasked = ours(model, tokens)
    assert (unmasked[1, :7] - padded[1, :7]).abs().max() > 0.1  # the mask was needed


def test_a_mask_for_each_query_equals_llama(pair: tuple[Transformer, LlamaForCausalLM]) -> None:
    model, llama = pair
    tokens, block = random_tokens(2, 16, seed=3), torch.arange(16) // 4
    allowed = block[:, None] >= block[None, :]
    additive = torch.zeros(2, 1, 16, 16).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        expected = llama(tokens, attention_mask=additive, use_cache=False).logits
    torch.testing.assert_close(
        ours(model, tokens, allowed.expand(2, 16, 16)), expected, atol=1e-4, rtol=0
    )


def test_causal_attention_would_be_seen(pair: tuple[Transformer, LlamaForCausalLM]) -> None:
    model, llama = pair
    tokens = random_tokens(1, 24, seed=4)
    with torch.inference_mode():
        causal = llama(tokens, use_cache=False).logits
    difference = (ours(model, tokens) - causal).abs()
    assert difference[:, :-1].max() > 0.3
    below = torch.ones(24, 24, dtype=torch.bool).tril()
    torch.testing.assert_close(ours(model, tokens, below[None]), causal, atol=1e-4, rtol=0)


def test_given_rotary_positions_replace_the_default(
    pair: tuple[Transformer, LlamaForCausalLM],
) -> None:
    model, _ = pair
    tokens = random_tokens(2, 12, seed=5)
    read, count = everywhere(tokens), torch.arange(12)
    with torch.inference_mode():
        plain, shifted = model(tokens, read), model(tokens, read, None, (count + 30).expand(2, -1))
        turned = model(tokens, read, None, count.flip(0).expand(2, -1))
    torch.testing.assert_close(
        shifted, plain, atol=1e-4, rtol=0
    )  # the rotary embedding is relative
    assert (turned - plain).abs().max() > 0.1


def test_logits_are_read_only_where_asked(pair: tuple[Transformer, LlamaForCausalLM]) -> None:
    model, _ = pair
    tokens = random_tokens(3, 15, seed=6)
    full = ours(model, tokens)
    rows, columns = torch.tensor([2, 0, 0, 1, 2]), torch.tensor([14, 0, 7, 3, 14])
    with torch.inference_mode():
        some = model(tokens, (rows, columns))
        none = model(tokens, (rows[:0], columns[:0]))
    assert some.shape == (5, 384) and none.shape == (0, 384)
    torch.testing.assert_close(some, full[rows, columns], atol=1e-5, rtol=0)


def test_math_attention_equals_the_fused_kernel(pair: tuple[Transformer, LlamaForCausalLM]) -> None:
    model, _ = pair
    tokens = random_tokens(2, 18, seed=7)
    keys = (torch.arange(18) < torch.tensor([18, 9])[:, None])[:, None]
    queries = (torch.rand(2, 18, 18, generator=torch.Generator().manual_seed(0)) < 0.5) | torch.eye(
        18, dtype=torch.bool
    )
    plain = Transformer(model.config, "math")
    plain.load_state_dict(model.state_dict())
    for allowed in (None, keys, queries):
        torch.testing.assert_close(
            ours(plain, tokens, allowed), ours(model, tokens, allowed), atol=1e-4, rtol=0
        )


def test_shards_and_one_file_are_the_same_model(tmp_path: Path) -> None:
    one, two = (
        load32(make("llada", tmp_path / "one")),
        load32(make("llada", tmp_path / "two", shards=3)),
    )
    assert one.state_dict().keys() == two.state_dict().keys()
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name]), name


def test_bf16_files_load_in_bf16_and_in_float32(tmp_path: Path) -> None:
    folder = make("llada", tmp_path, bf16=True, n_kv_heads=2)
    half, full = load_model(folder, EngineConfig(device="cpu", dtype="bfloat16")), load32(folder)
    tokens = random_tokens(2, 20, seed=8)
    exact = ours(full, tokens)
    torch.testing.assert_close(exact, reference(oracle(folder), tokens), atol=1e-4, rtol=0)
    assert all(weight.dtype == torch.bfloat16 for weight in half.parameters())
    rounded = ours(half, tokens)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.15
    assert (rounded.float() - exact).abs().mean() < 0.02
    assert {w.dtype for w in load_model(folder, EngineConfig(device="cpu")).parameters()} == {
        torch.float32
    }  # "auto" on a CPU


def test_bf16_takes_the_rotation_in_float32(tmp_path: Path) -> None:
    exact, coarse = (
        load_model(
            make("llada", tmp_path / name, bf16=True, rope_full_precision=wide),
            EngineConfig(device="cpu", dtype="bfloat16"),
        )
        for name, wide in (("wide", True), ("narrow", False))
    )
    truth = ours(load32(tmp_path / "wide"), random_tokens(4, 200, seed=9))
    errors = [
        (ours(model, random_tokens(4, 200, seed=9)).float() - truth).abs().mean()
        for model in (exact, coarse)
    ]
    assert errors[0] < errors[1]


def test_norms_are_rounded_before_the_weight(tmp_path: Path) -> None:
    model = load_model(
        make("llada", tmp_path, bf16=True), EngineConfig(device="cpu", dtype="bfloat16")
    )
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    wide = x.float() * torch.rsqrt(
        x.float().pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps
    )
    right, wrong = (
        model.norm.weight * wide.bfloat16(),
        (model.norm.weight.float() * wide).bfloat16(),
    )
    assert torch.equal(model.norm(x), right) and not torch.equal(right, wrong)


def test_load_gives_a_model_that_answers(folder: Path) -> None:
    lm = creditdecoding.load(str(folder), device="cpu", threads=1)
    tokens = random_tokens(1, 9, seed=10)
    torch.testing.assert_close(
        ours(lm.model, tokens), reference(oracle(folder), tokens), atol=1e-4, rtol=0
    )
    done = lm.generate(
        ["Hi", "What is the capital of Peru?"], gen_length=12, block_length=8, early_stop=False
    )
    assert [len(set(one.trace.written)) for one in done] == [12, 12]
    assert all(lm.tokenizer.mask_id not in one.trace.written.values() for one in done)
    assert lm.max_length == 256 and not any(
        weight.requires_grad for weight in lm.model.parameters()
    )


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_writing_gives_the_released_files_back(changes: dict[str, Any], tmp_path: Path) -> None:
    source = make("llada", tmp_path / "released", bf16=True, **changes)
    config, _ = read_config(source)
    model = load_model(source, EngineConfig(device="cpu", dtype="bfloat16"))
    again = tmp_path / "ours"
    again.mkdir()
    save_weights(model, again / "model.safetensors", llada.RENAME, torch.bfloat16)
    (again / "config.json").write_text(json.dumps(llada.to_hf(config, "bfloat16")))
    written, released = (
        load_file(again / "model.safetensors"),
        load_file(source / "model.safetensors"),
    )
    assert {name: tuple(w.shape) for name, w in written.items()} == llada_table(
        json.loads((source / "config.json").read_text())
    )
    for name, weight in released.items():
        assert weight.dtype == written[name].dtype and torch.equal(weight, written[name]), name
    assert read_config(again)[0] == config
    reloaded = load_model(again, EngineConfig(device="cpu", dtype="bfloat16"))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, reloaded.state_dict()[name]), name


def test_our_config_json_repeats_the_released_fields() -> None:
    """What other LLaDA code reads: every released field but those of training has its released
    value.
    """
    training = {
        "alibi_bias_max",
        "attention_layer_norm_with_affine",
        "flash_attention",
        "init_cutoff_factor",
        "init_fn",
        "init_std",
    }
    training |= {"precision", "transformers_version"}
    ours = llada.to_hf(llada.from_hf(LLADA_8B, {}), "bfloat16")
    assert ours == {name: value for name, value in LLADA_8B.items() if name not in training}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_heads": None},
        {
            "n_kv_heads": 8,
            "mlp_hidden_size": 14336,
            "weight_tying": True,
            "vocab_size": 155136,
            "embedding_size": None,
            "mask_token_id": 5,
        },
        {"multi_query_attention": True},
        {"mlp_hidden_size": None},
        {"mask_token_id": None},
        {"pad_token_id": 7, "eos_token_id": [126081, 126348]},
        {"pad_token_id": 0},
        {"rope_full_precision": False, "rope_theta": 1e4, "rms_norm_eps": 1e-6},
    ],
    ids=[
        "8B",
        "kv-null",
        "iLLaDA",
        "multi-query",
        "mlp-ratio",
        "no-mask",
        "two-ends",
        "pad-0",
        "numbers",
    ],
)
def test_config_survives_the_round_trip(changes: dict[str, Any]) -> None:
    config = llada.from_hf({**LLADA_8B, **changes}, {})
    again = llada.from_hf(json.loads(json.dumps(llada.to_hf(config, "bfloat16"))), {})
    assert again == config


def test_config_is_read_as_published() -> None:
    assert llada.from_hf(LLADA_8B, {}) == ModelConfig(
        family="llada",
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        intermediate_size=12288,
        embedding_rows=126464,
        max_length=4096,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=False,
        rope_full_precision=True,
        mask_token_id=126336,
        stop_token_ids=(126081,),
        pad_token_id=126081,
    )
    assert llada.from_hf({**LLADA_8B, "n_kv_heads": None}, {}).num_kv_heads == 32
    assert llada.from_hf({**LLADA_8B, "multi_query_attention": True}, {}).num_kv_heads == 1
    assert (
        llada.from_hf({**LLADA_8B, "embedding_size": None, "vocab_size": 126400}, {}).embedding_rows
        == 126400
    )
    assert llada.from_hf({**LLADA_8B, "vocab_size": 126349}, {}).embedding_rows == 126464
    assert llada.from_hf({**LLADA_8B, "pad_token_id": 0}, {}).pad_token_id == 0
    assert llada.from_hf({**LLADA_8B, "pad_token_id": None}, {}).pad_token_id == 126081
    assert llada.from_hf({**LLADA_8B, "mlp_hidden_size": None}, {}).intermediate_size == 4 * 4096


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_parameters_counts_what_is_there(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = make("llada", tmp_path, **changes)
    config, _ = read_config(folder)
    stored = sum(weight.numel() for weight in load_file(folder / "model.safetensors").values())
    assert (
        config.num_parameters()
        == stored
        == sum(weight.numel() for weight in load32(folder).parameters())
    )


def test_parameters_of_the_published_models() -> None:
    assert llada.from_hf(LLADA_8B, {}).num_parameters() == 8_015_581_184
    illada = {
        "n_kv_heads": 8,
        "mlp_hidden_size": 14336,
        "vocab_size": 155136,
        "embedding_size": 155136,
        "weight_tying": True,
    }
    assert llada.from_hf({**LLADA_8B, **illada}, {}).num_parameters() == 7_615_025_152


def test_names_and_shapes_of_the_published_8b_model() -> None:
    """The table has 291 tensors, and our network has the same ones under the rename table, without
    allocating any.
    """
    config = llada.from_hf(LLADA_8B, {})
    with torch.device("meta"):
        model = Transformer(config)
    table = llada_table(LLADA_8B)
    renamed = {}
    for name, weight in model.named_parameters():
        parts = name.split(".")
        layer = parts[1] if parts[0] == "layers" else ""
        pattern = name.replace(f"layers.{layer}.", "layers.{n}.") if layer else name
        renamed[llada.RENAME[pattern].format(n=layer)] = tuple(weight.shape)
    assert renamed == table and len(table) == 291


def test_the_fixture_has_the_published_special_tokens(folder: Path) -> None:
    raw, tokenizer = json.loads((folder / "config.json").read_text()), llada_tokenizer()
    assert raw.keys() == LLADA_8B.keys()
    assert raw["mask_token_id"] == tokenizer.token_to_id(MASK) and raw[
        "eos_token_id"
    ] == tokenizer.token_to_id(EOS)
