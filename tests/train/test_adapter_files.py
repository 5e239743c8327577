"""The adapter that is written: PEFT reads it, and it is what was trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from creditdecoding.errors import CheckpointError
from creditdecoding.lm import load
from creditdecoding.models.transformer import Transformer
from creditdecoding.train.adapt import AdaptRun
from creditdecoding.train.adapter_files import adapter_tensors, load_adapter, merged_model
from tests.helpers.adaptations import small_run, write_conversations
from tests.helpers.tiny_bases import write_base


def randomised(run: AdaptRun) -> AdaptRun:
    """The run with everything that is trained moved, to values of bfloat16."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in run.trained():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_((weight + 0.1 * noise).bfloat16())
    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_peft_reads_what_was_trained(tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft")
    run = randomised(small_run(tmp_path, kind=kind))
    run.export()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, run.folder).eval()
    ours = merged_model(run.model, run.mask_embedding, run.base, torch.float32)
    ours.config = dataclasses.replace(ours.config, causal_block=1)
    tokens = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 3] = run.mask_id
    with torch.no_grad():
        expected = adapted(tokens).logits
        logits = ours.logits(ours.hidden_states(tokens))
    words = [i for i in range(logits.shape[-1]) if i != run.mask_id]
    torch.testing.assert_close(logits[..., words], expected[..., words], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_model_is_loaded_as_it_was_trained(tmp_path: Path, kind: str) -> None:
    run = randomised(small_run(tmp_path, kind=kind))
    run.export()
    lm = load(str(run.folder))
    trained = merged_model(run.model, run.mask_embedding, run.base, torch.float32)
    assert (lm.vocab.mask_id, lm.geometry) == (run.mask_id, trained.geometry)
    tokens = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    tokens[:, 5] = run.mask_id
    assert isinstance(lm.model, Transformer)
    expected = trained.hidden_states(tokens)
    torch.testing.assert_close(lm.model.hidden_states(tokens), expected, rtol=1e-4, atol=1e-4)


def test_llama_3_keeps_its_rotary_embedding(tmp_path: Path) -> None:
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    write_base(tmp_path / "base", max_position_embeddings=256, rope_parameters=scaled)
    write_conversations(tmp_path / "chat.jsonl")
    run = small_run(tmp_path)
    run.export()
    lm = load(str(run.folder))
    assert isinstance(lm.model, Transformer)
    assert lm.model.config.rope_scaling is not None
    assert lm.model.config.rope_scaling == run.model.config.rope_scaling


def test_names_are_pefts_and_config_is_fast_dllms(tmp_path: Path) -> None:
    run = small_run(tmp_path, kind="qwen3")
    run.export()
    names = set(load_file(run.folder / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight" in names
    assert len(names) == 2 * (7 * 2 + 4) + 2
    raw = json.loads((run.folder / "config.json").read_text())
    assert raw["architectures"] == ["Fast_dLLM_QwenForCausalLM"]
    assert (raw["bd_size"], raw["mask_token_id"]) == (8, run.mask_id)
    assert (raw["qk_norm"], raw["attention_bias"]) == (True, False)


def test_an_adapter_is_a_start(tmp_path: Path) -> None:
    run = randomised(small_run(tmp_path))
    run.export()
    other = small_run(tmp_path)
    load_adapter(other.model, other.mask_embedding, run.folder)
    expected = adapter_tensors(run.model, run.mask_embedding)
    for name, tensor in adapter_tensors(other.model, other.mask_embedding).items():
        assert torch.equal(tensor, expected[name])


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    run.export()
    other = small_run(tmp_path, rank=2)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_adapter(other.model, other.mask_embedding, run.folder)
    with pytest.raises(CheckpointError, match="no adapter"):
        load_adapter(other.model, other.mask_embedding, tmp_path)


def test_rank_0_writes_a_checkpoint(tmp_path: Path) -> None:
    run = randomised(small_run(tmp_path, rank=0))
    run.export()
    saved = load_file(run.folder / "model.safetensors")
    row = saved["model.embed_tokens.weight"][run.mask_id]
    assert torch.equal(row, run.mask_embedding.row.bfloat16())
    assert not (run.folder / "adapter_config.json").exists()
