"""Every family against an independent class of the transformers library, on files in the released
format.

Logits within 1e-4 in float32; `pytest tests/models/test_families.py -s` prints the largest
differences, which docs/guide/your-checkpoint.md states.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

from creditdecoding.config import EngineConfig, MoEConfig
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models import FAMILIES, load_model, read_config
from creditdecoding.models.families import dream, fast_dllm, llada2, llada_moe, sdar
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import TensorHeader, check_weights
from tests.models.test_llada import oracle as llada_oracle
from tools.checkpoints import ling, oracles, qwen
from tools.checkpoints.files import LAYOUTS, Table
from tools.make_checkpoint import FAMILIES as WRITERS
from tools.make_checkpoint import make

torch.set_num_threads(1)

Oracle = Callable[..., PreTrainedModel]


@dataclass(frozen=True)
class Case:
    """A checkpoint to compare: what to write, the oracle, and what the oracle's class does not
    know.
    """

    family: str
    oracle: Oracle
    block: int | None = None
    shift: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "llada_moe": Case("llada_moe", oracles.llada_moe),
    "llada_moe grouped heads": Case(
        "llada_moe", oracles.llada_moe, changes={"num_key_value_heads": 2}
    ),
    "llada2": Case("llada2", oracles.llada2, 32),
    "llada2 blocks of 8": Case("llada2", oracles.llada2, 8, options={"causal_block": 8}),
    "llada2 two dense layers, no kv heads given": Case(
        "llada2",
        oracles.llada2,
        8,
        changes={
            "first_k_dense_replace": 2,
            "num_key_value_heads": 0,
            "num_shared_experts": 2,
            "block_size": 8,
        },
    ),
    "dream": Case("dream", oracles.qwen2, shift=True),
    "sdar": Case("sdar", oracles.qwen3, 4),
    "sdar blocks of 16": Case("sdar", oracles.qwen3, 16, options={"causal_block": 16}),
    "sdar tied": Case(
        "sdar", oracles.qwen3, 8, changes={"tie_word_embeddings": True, "block_size": 8}
    ),
    "sdar_moe": Case("sdar_moe", oracles.sdar_moe, 4),
    "fast_dllm": Case("fast_dllm", oracles.qwen2, 32, shift=True),
    "fast_dllm tied, blocks of 8": Case(
        "fast_dllm", oracles.qwen2, 8, True, {"tie_word_embeddings": True, "bd_size": 8}
    ),
}
LENGTHS = (1, 3, 13, 47, 70)
ROWS = 384


def everywhere(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Indices that read every position, row by row."""
    rows, length = tokens.shape
    return torch.arange(rows).repeat_interleave(length), torch.arange(length).repeat(rows)


@torch.inference_mode()
def ours(model: Transformer, tokens: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Logits [rows, length, vocab] of our transformer: those that are for each position."""
    return model(tokens, everywhere(tokens), allowed).view(*tokens.shape, -1)


@torch.inference_mode()
def reference(
    model: PreTrainedModel, tokens: Tensor, block: int | None, shift: bool = False
) -> Tensor:
    """The same of an oracle: a mask of blocks counted from 0 (or none), and the rows moved by one
    position where asked.
    """
    rows, length = tokens.shape
    block_of = torch.arange(length) // (block or length)
    mask = torch.zeros(length, length).masked_fill(
        block_of[:, None] < block_of[None, :], torch.finfo(torch.float32).min
    )
    logits: Tensor = model(
        tokens, attention_mask=mask.expand(rows, 1, -1, -1).to(model.dtype), use_cache=False
    ).logits
    return torch.cat((logits[:, :1], logits[:, :-1]), dim=1) if shift else logits


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    """Random ids of the tiny vocabulary."""
    return torch.randint(0, ROWS, shape, generator=torch.Generator().manual_seed(seed))


def load(folder: Path, dtype: str = "float32", **options: Any) -> Transformer:
    """Our model on the CPU."""
    return load_model(folder, EngineConfig(device="cpu", dtype=dtype, **options))


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference."""
    return float((a.float() - b.float()).abs().max())


@dataclass(frozen=True)
class Pair:
    """A case with both networks."""

    name: str
    case: Case
    folder: Path
    model: Transformer
    oracle: PreTrainedModel

    def expected(self, tokens: Tensor) -> Tensor:
        """The oracle's logits."""
        return reference(self.oracle, tokens, self.case.block, self.case.shift)


@pytest.fixture(scope="module", params=list(CASES), ids=[name.replace(" ", "-") for name in CASES])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same checkpoint in our transformer and in the oracle."""
    case = CASES[request.param]
    folder = make(case.family, tmp_path_factory.mktemp("family"), shards=2, **case.changes)
    return Pair(request.param, case, folder, load(folder, **case.options), case.oracle(folder))


def test_logits_equal_the_oracle(pair: Pair) -> None:
    worst = 0.0
    for length in LENGTHS:
        tokens = random_tokens(2, length, seed=length)
        expected = pair.expected(tokens)
        assert expected.std() > 0.3  # else closeness would say nothing
        worst = max(worst, gap(ours(pair.model, tokens), expected))
    print(f"\n{pair.name}: {worst:.1e} float32")
    assert worst < 1e-4


def test_padded_rows_equal_the_oracle_on_each_row_alone(pair: Pair) -> None:
    lengths = [37, 5, 1, 30]
    tokens = random_tokens(len(lengths), max(lengths), seed=2)
    allowed = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None]
    padded = ours(pair.model, tokens, allowed)
    for row, length in enumerate(lengths):
        assert gap(padded[row, :length], pair.expected(tokens[row : row + 1, :length])[0]) < 1e-4
    assert bool(padded.isfinite().all())


def test_causal_attention_would_be_seen(pair: Pair) -> None:
    tokens = random_tokens(1, 47, seed=4)
    assert gap(ours(pair.model, tokens), reference(pair.oracle, tokens, 1, pair.case.shift)) > 0.3


def test_another_block_length_would_be_seen(pair: Pair) -> None:
    tokens = random_tokens(1, 47, seed=5)
    other = 12 if pair.case.block else 24
    assert (
        gap(ours(pair.model, tokens), reference(pair.oracle, tokens, other, pair.case.shift)) > 0.3
    )


def test_the_shift_is_read_at_single_positions(pair: Pair) -> None:
    tokens, model = random_tokens(2, 21, seed=6), pair.model
    rows, columns = torch.tensor([1, 0, 0, 1]), torch.tensor([20, 0, 7, 1])
    with torch.inference_mode():
        some = model(tokens, (rows, columns))
    assert gap(some, pair.expected(tokens)[rows, columns]) < 1e-4
    assert (
        gap(
            ours(model, tokens),
            reference(pair.oracle, tokens, pair.case.block, not pair.case.shift),
        )
        > 0.3
    )


@pytest.mark.slow
def test_bf16_files_give_the_oracle_in_bf16(pair: Pair, tmp_path: Path) -> None:
    """Dense networks bit for bit; experts are added in float32, so that we may differ from the
    oracle but not be worse.
    """
    case = pair.case
    folder = make(case.family, tmp_path, bf16=True, **case.changes)
    half, exact = load(folder, "bfloat16", **case.options), load(folder, **case.options)
    assert all(weight.dtype == torch.bfloat16 for weight in half.parameters()) and all(
        b.dtype == torch.float32 for b in half.buffers()
    )
    tokens = random_tokens(2, 47, seed=8)
    expected = reference(case.oracle(folder, torch.bfloat16), tokens, case.block, case.shift)
    truth = reference(case.oracle(folder), tokens, case.block, case.shift)
    rounded = ours(half, tokens)
    print(f"\n{pair.name}: {gap(rounded, expected):.1e} bfloat16")
    assert rounded.dtype == torch.bfloat16 and gap(ours(exact, tokens), truth) < 1e-4
    if half.config.moe is None:
        assert (rounded == expected).float().mean() > 0.99
    else:
        assert (rounded - truth).abs().mean() < 1.2 * (expected - truth).abs().mean()


CONTROLS: list[tuple[str, Oracle, dict[str, Any]]] = [
    ("llada_moe", oracles.llada_moe, {"renormalize": True}),
    ("sdar_moe", oracles.sdar_moe, {"renormalize": False}),
    ("llada2", oracles.llada2, {"rotary": 1.0}),
    ("llada2", oracles.llada2, {"bias": 0.0}),
    ("dream", oracles.qwen2, {"bias": 0.0}),
    ("fast_dllm", oracles.qwen2, {"bias": 0.0}),
    ("sdar", oracles.qwen3, {"norms": 0.5}),
]


@pytest.mark.parametrize(
    ("family", "oracle", "wrong"),
    CONTROLS,
    ids=[f"{name}-{next(iter(wrong))}" for name, _, wrong in CONTROLS],
)
def test_a_wrong_detail_would_be_seen(
    family: str, oracle: Oracle, wrong: dict[str, Any], tmp_path: Path
) -> None:
    folder, tokens = make(family, tmp_path), random_tokens(2, 47, seed=9)
    logits, case = ours(load(folder), tokens), CASES[family]
    assert gap(logits, reference(oracle(folder), tokens, case.block, case.shift)) < 1e-4
    assert gap(logits, reference(oracle(folder, **wrong), tokens, case.block, case.shift)) > 0.2


def test_llada_in_bf16_is_llama_with_a_rotation_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tokens = make("llada", tmp_path, bf16=True), random_tokens(2, 47, seed=10)
    logits, llama = ours(load(folder, "bfloat16"), tokens), llada_oracle(folder)
    frequencies = llama.model.rotary_emb.inv_freq.clone()
    llama = llama.to(torch.bfloat16)
    llama.model.rotary_emb.inv_freq = frequencies
    coarse = reference(llama, tokens, None)
    apply, table = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRotaryEmbedding.forward
    monkeypatch.setattr(
        modeling_llama.LlamaRotaryEmbedding,
        "forward",
        lambda self, x, position_ids: table(self, x.float(), position_ids),
    )
    monkeypatch.setattr(
        modeling_llama,
        "apply_rotary_pos_emb",
        lambda q, k, cos, sin: tuple(x.to(q.dtype) for x in apply(q.float(), k.float(), cos, sin)),
    )
    assert (logits == reference(llama, tokens, None)).float().mean() > 0.99
    assert (logits == coarse).float().mean() < 0.8


@pytest.mark.parametrize("family", ["llada_moe", "llada2", "sdar_moe"])
def test_every_layout_of_experts_is_the_same_model(family: str, tmp_path: Path) -> None:
    one, *others = (
        load(make(family, tmp_path / layout, experts=layout, shards=3)).state_dict()
        for layout in LAYOUTS
    )
    assert len(others) == 2
    for other in others:
        assert other.keys() == one.keys() and all(
            torch.equal(weight, other[name]) for name, weight in one.items()
        )


@pytest.mark.parametrize("family", sorted(WRITERS))
def test_parameters_counts_what_is_there(family: str, tmp_path: Path) -> None:
    folder = make(family, tmp_path)
    stored = sum(weight.numel() for weight in load_file(folder / "model.safetensors").values())
    assert (
        read_config(folder)[0].num_parameters()
        == stored
        == sum(weight.numel() for weight in load(folder).state_dict().values())
    )


SDAR_8B = {**qwen.SDAR_4B, "hidden_size": 4096, "intermediate_size": 12288}
SDAR_2B = {
    **qwen.SDAR_4B,
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "intermediate_size": 6144,
}

# config.json, reader, table of names, how many tensors and parameters are published (None: not
# known).
PUBLISHED: dict[
    str, tuple[dict[str, Any], Any, Callable[[dict[str, Any]], Table], int | None, int]
] = {
    "LLaDA-MoE-7B-A1B": (ling.LLADA_MOE, llada_moe, ling.llada_moe_table, 3219, 7_356_880_896),
    "LLaDA2.1-mini": (ling.LLADA2_MINI, llada2, ling.llada2_table, 14_813, 16_255_643_392),
    "LLaDA2.1-flash": (ling.LLADA2_FLASH, llada2, ling.llada2_table, 24_161, 102_889_705_216),
    "Dream-7B": (qwen.DREAM_7B, dream, qwen.qwen_table, 339, 7_615_616_512),
    "SDAR-1.7B": (SDAR_2B, sdar, qwen.qwen_table, None, 2_031_739_904),
    "SDAR-4B": (qwen.SDAR_4B, sdar, qwen.qwen_table, 399, 4_411_424_256),
    "SDAR-8B": (SDAR_8B, sdar, qwen.qwen_table, 399, 8_190_735_360),
    "SDAR-30B-A3B": (qwen.SDAR_30B, sdar, qwen.qwen_table, None, 30_532_122_624),
    "Fast_dLLM_v2_7B": (qwen.FAST_DLLM_7B, fast_dllm, qwen.qwen_table, 339, 7_615_616_512),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_names_shapes_and_counts_of_the_published_models(name: str) -> None:
    """Our network on the meta device takes exactly the published tensors, and there are as many as
    published.
    """
    raw, family, table, tensors, parameters = PUBLISHED[name]
    config, published = family.from_hf(raw, {}), table(raw)
    assert len(published) == (tensors or len(published))
    assert (
        config.num_parameters()
        == sum(math.prod(shape) for shape in published.values())
        == parameters
    )
    with torch.device("meta"):
        model = Transformer(config)
    headers = {
        name: TensorHeader(Path("model.safetensors"), "BF16", shape)
        for name, shape in published.items()
    }
    assert check_weights(model, headers, family.RENAME).keys() == published.keys()


def test_what_each_family_is() -> None:
    read = {name: family.from_hf(raw, {}) for name, (raw, family, *_) in PUBLISHED.items()}
    mini, moe, dense, fast = (
        read[name] for name in ("LLaDA2.1-mini", "LLaDA-MoE-7B-A1B", "SDAR-4B", "Fast_dLLM_v2_7B")
    )
    assert {
        name: (c.causal_block, c.logit_shift, c.qkv_bias, c.qk_norm) for name, c in read.items()
    } == {
        **dict.fromkeys(["LLaDA-MoE-7B-A1B"], (None, False, False, True)),
        **dict.fromkeys(["LLaDA2.1-mini", "LLaDA2.1-flash"], (32, False, False, True)),
        **dict.fromkeys(
            ["SDAR-1.7B", "SDAR-4B", "SDAR-8B", "SDAR-30B-A3B"], (4, False, False, True)
        ),
        "Dream-7B": (None, True, True, False),
        "Fast_dLLM_v2_7B": (32, True, True, False),
    }
    assert not any(c.rope_full_precision for c in read.values()) and [
        c.rotary_dim for c in (mini, moe, dense)
    ] == [64, None, None]
    assert mini.moe == MoEConfig(256, 8, 512, 512, 1, "sigmoid", True, 2.5, 8, 4, True, True)
    assert moe.moe == MoEConfig(64, 8, 1024) and read["SDAR-30B-A3B"].moe == MoEConfig(
        128, 8, 768, renormalize=True
    )
    assert (mini.rope_theta, moe.rope_theta, dense.rope_theta) == (6e5, 5e4, 1e6)
    assert (mini.rms_norm_eps, moe.rms_norm_eps, fast.rms_norm_eps) == (1e-6, 1e-5, 1e-6)
    assert (mini.stop_token_ids, mini.pad_token_id, mini.mask_token_id) == ((), 156892, None)
    assert (dense.head_dim, dense.pad_token_id, fast.stop_token_ids) == (128, 151643, (151645,))


def test_fields_may_lie_elsewhere() -> None:
    scaled = {
        "rope_theta": None,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 7e5,
            "partial_rotary_factor": 0.25,
        },
    }
    moved = llada2.from_hf(
        {**ling.LLADA2_MINI, **scaled, "partial_rotary_factor": None, "rotary_dim": None},
        {"eos_token_id": [3, 4]},
    )
    assert (moved.rope_theta, moved.rotary_dim, moved.stop_token_ids, moved.pad_token_id) == (
        7e5,
        32,
        (3, 4),
        156892,
    )
    assert (
        sdar.from_hf(qwen.SDAR_4B, {"eos_token_id": [151645, 151643], "block_size": 8}).causal_block
        == 8
    )
    assert sdar.from_hf(qwen.SDAR_4B, {"eos_token_id": [151645, 151643]}).stop_token_ids == (
        151643,
        151645,
    )
    assert sdar.from_hf({**qwen.SDAR_4B, "block_size": 16}, {"block_size": 8}).causal_block == 16
    assert llada2.from_hf({**ling.LLADA2_MINI, "num_key_value_heads": 0}, {}).num_kv_heads == 16
    assert sdar.from_hf({**qwen.SDAR_30B, "norm_topk_prob": False}, {}).moe == MoEConfig(
        128, 8, 768
    )
    assert fast_dllm.from_hf(
        {**qwen.FAST_DLLM_7B, "tie_word_embeddings": True, "rope_scaling": {"type": "default"}}, {}
    ).tie_embeddings
    assert llada_moe.from_hf(
        {**ling.LLADA_MOE, "qk_layernorm": None, "moe_layer_freq": 1}, {}
    ).qk_norm


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("llada_moe", {"attention_bias": True}, "attention_bias"),
    ("llada_moe", {"moe_router_score_function": "sigmoid"}, "moe_router_score_function"),
    ("llada_moe", {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size"),
    ("llada_moe", {"moe_layer_freq": [0, 1]}, "moe_layer_freq"),
    ("llada_moe", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llada_moe", {"expert_intermediate_size": None}, "lacks expert_intermediate_size"),
    ("llada_moe", {"num_experts_per_tok": 9}, "experts"),
    ("llada2", {"image_token_offset": 157184}, "LLaDA2.0-Uni"),
    ("llada2", {"vocab_size": 173568}, "LLaDA2.0-Uni"),
    ("llada2", {"use_qkv_bias": True}, "use_qkv_bias"),
    ("llada2", {"score_function": "softmax"}, "score_function"),
    ("llada2", {"rotary_dim": 12}, "do not agree"),
    ("llada2", {"rotary_dim": None, "partial_rotary_factor": None}, "lacks partial_rotary_factor"),
    ("llada2", {"n_group": 5}, "groups"),
    ("llada2", {"first_k_dense_replace": -1}, "first_k_dense_replace"),
    ("llada2", {"use_sliding_window": True}, "use_sliding_window"),
    ("dream", {"use_sliding_window": True}, "use_sliding_window"),
    ("dream", {"use_mrope": True}, "use_mrope"),
    ("dream", {"hidden_act": "gelu"}, "hidden_act"),
    ("dream", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
    ("dream", {"architectures": ["DreamForCausalLM"]}, "DreamReasoner"),
    ("dream", {"architectures": ["DiffusionGemmaForBlockDiffusion"]}, "DiffusionGemma"),
    ("sdar", {"attention_bias": True}, "attention_bias"),
    ("sdar", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}, "rope_parameters"),
    ("sdar", {"num_key_value_heads": 3}, "heads do not divide"),
    ("sdar", {"block_size": 0}, "block_size"),
    ("sdar_moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ("sdar_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
    ("fast_dllm", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("fast_dllm", {"bd_size": "32"}, "bd_size"),
    ("fast_dllm", {"rms_norm_eps": None}, "lacks rms_norm_eps"),
    ("fast_dllm", {"eos_token_id": "<|im_end|>"}, "eos_token_id"),
]


@pytest.mark.parametrize(
    ("family", "changes", "named"), BAD, ids=[f"{family}-{named}" for family, _, named in BAD]
)
def test_what_is_not_implemented_is_refused_by_name(
    family: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = make(family, tmp_path)
    raw = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in raw.items() if value is not None})
    )
    with pytest.raises(CheckpointError, match=named) as caught:
        read_config(folder)
    assert caught.value.hint and len(str(caught.value).splitlines()) == 1


def test_the_block_length_can_be_given_for_block_causal_checkpoints_only(tmp_path: Path) -> None:
    assert load(make("sdar", tmp_path / "sdar"), causal_block=8).config.causal_block == 8
    assert load(tmp_path / "sdar").config.causal_block == 4
    with pytest.raises(OptionError, match="no blocks"):
        load(make("dream", tmp_path / "dream"), causal_block=8)


def test_tensors_decide_where_config_json_is_silent(tmp_path: Path) -> None:
    """A bias or a norm too few or too many is a refusal, whatever config.json says."""
    folder = make("sdar", tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**raw, "architectures": ["DreamModel"], "head_dim": 16})
    )
    with pytest.raises(CheckpointError, match=r"model\.layers\.0\.self_attn\..*_norm|_proj\.bias"):
        load(folder)


def test_every_family_has_one_reader() -> None:
    names = [name for family in FAMILIES for name in family.ARCHITECTURES]
    assert len(names) == len(set(names))


def test_the_page_on_models_names_every_family() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide" / "your-checkpoint.md").read_text(
        encoding="utf-8"
    )
    for family in FAMILIES:
        assert f"`{family.__name__.rpartition('.')[2]}`" in page and all(
            name in page for name in family.ARCHITECTURES
        )
