"""Adapters over every family, in Fast-dLLM v2's format over a base, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from creditdecoding.config import EngineConfig
from creditdecoding.description import describe
from creditdecoding.errors import CheckpointError
from creditdecoding.lm import load
from creditdecoding.models import load_model
from creditdecoding.models.adapter import base_fingerprint
from tests.helpers.adapters import PREFIX, low_rank_tensors, merged_tensors, write_adapter
from tests.helpers.cli import run_credit
from tests.helpers.tiny_bases import write_base
from tools.make_checkpoint import FAMILIES, make

FLOAT32 = EngineConfig(dtype="float32", device="cpu")
QUERY = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"
NORM = "model.layers.1.input_layernorm.weight"


def merged_copy(base: Path, tensors: dict[str, Tensor]) -> Path:
    """The base with the adapter merged by hand, in float32."""
    folder = Path(shutil.copytree(base, base.parent / "merged"))
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_file(merged_tensors(base, tensors), str(folder / "model.safetensors"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_adapters(family: str, tmp_path: Path) -> None:
    """Experts, rows stacked in one tensor and all names; config and tokenizer are the base's."""
    base = make(family, tmp_path / "base")
    tensors = low_rank_tensors(base)
    adapter = write_adapter(tmp_path / "adapter", base, tensors)
    expected = load_model(merged_copy(base, tensors), FLOAT32).state_dict()
    for name, weight in load(str(adapter), FLOAT32).model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)
    assert len(tensors) > 20
    assert describe(str(adapter), FLOAT32)["base"] == str(base)


def dllm_adapter(folder: Path, base: Path, **changes: Any) -> Path:
    """A trained norm, mask embedding and LoRA, with config.json in Fast-dLLM v2's format."""
    tensors = low_rank_tensors(base)
    tensors["mask_embedding"] = torch.full((48,), 0.5)
    tensors[PREFIX + NORM] = torch.full((48,), 1.5)
    write_adapter(folder, base, tensors, **changes)
    config = json.loads((base / "config.json").read_text())
    config |= {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "model_type": "Fast_dLLM_Qwen",
        "attention_bias": config["model_type"] == "qwen2",
        "qk_norm": config["model_type"] == "qwen3",
        "bd_size": 8,
        "mask_token_id": 303,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_dllm_of_a_base(kind: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", kind)
    adapter = dllm_adapter(tmp_path / "adapter", base, base_fingerprint=base_fingerprint(base))
    lm = load(str(adapter), FLOAT32)
    state = lm.model.state_dict()
    assert lm.tokenizer.mask_id == 303 and lm.geometry.causal_block == 8
    assert torch.equal(state["embed.weight"][303], torch.full((48,), 0.5))
    assert torch.equal(state["layers.1.attn_norm.weight"], torch.full((48,), 1.5))
    expected = merged_tensors(base, low_rank_tensors(base))
    name = "model.layers.1.mlp.down_proj.weight"
    torch.testing.assert_close(state["layers.1.mlp.down.weight"], expected[name])
    done = run_credit(["generate", "hi", "-m", adapter, "--gen-length", "16", "--device", "cpu"])
    assert done.status == 0, done.stderr


def test_a_fingerprint_does_not_depend_on_the_files(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    half = write_base(tmp_path / "half")
    tensors = {name: w.bfloat16() for name, w in merged_tensors(base, {}).items()}
    save_file(tensors, str(half / "model.safetensors"))
    assert base_fingerprint(base) == base_fingerprint(half)
    assert base_fingerprint(base) != base_fingerprint(write_base(tmp_path / "other", seed=1))


Change = Callable[[dict[str, Tensor]], dict[str, Any] | None]


def rename(old: str, new: str) -> Change:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def fields(**values: Any) -> Change:
    return lambda tensors: values


def drop(name: str) -> Change:
    return lambda tensors: {"target_modules": ["q_proj"]} if tensors.pop(name).numel() else None


def widen(tensors: dict[str, Tensor]) -> None:
    tensors[QUERY] = torch.zeros(3, 48)


SECOND = QUERY.replace("lora_A", "lora_B")
DELTA = f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
REFUSED: dict[str, tuple[Change, str]] = {
    "B is missing": (drop(SECOND), "lacks a tensor.*lora_B"),
    "A is missing": (drop(QUERY), "lacks a tensor.*lora_A"),
    "a module is missing": (fields(target_modules=["q_proj", "up_proj"]), "lacks.*up_proj.lora_A"),
    "not a target": (fields(target_modules=["v_proj"]), "not implemented; got.*q_proj"),
    "another module": (rename(QUERY, QUERY.replace("q_proj", "p_proj")), "lacks|does not have"),
    "no prefix": (rename(QUERY, QUERY.removeprefix(PREFIX)), "lacks|does not have"),
    "rank": (widen, r"wrong shape.*\(3, 48\).*\(2, 48\)"),
    "rank in the config": (fields(r=3), "wrong shape"),
    "a norm is missing": (fields(modules_to_save=["norm"]), "lacks.*model.norm.weight"),
    "tokens are missing": (fields(trainable_token_indices=[3]), "lacks.*trainable_tokens_delta"),
    "DoRA": (fields(use_dora=True), "use_dora True is not implemented"),
    "PiSSA": (fields(init_lora_weights="pissa"), "init_lora_weights 'pissa' is not implemented"),
    "layers repeated": (fields(layer_replication=[[0, 2]]), "layer_replication .* not implemented"),
    "parameters": (fields(target_parameters=["w"]), "target_parameters .* not implemented"),
    "an unknown field": (fields(use_novelty=True), "use_novelty True is not implemented"),
    "another kind": (fields(peft_type="LOHA"), "peft_type 'LOHA' is not implemented"),
    "bias": (fields(bias="some"), "bias 'some' is not implemented"),
    "alpha": (fields(lora_alpha="4"), "lora_alpha makes no sense"),
    "pattern": (fields(rank_pattern={"(": 2}), "rank_pattern makes no sense"),
    "another base": (fields(base_fingerprint="00ff"), "made for another base.*00ff"),
    "no base": (fields(base_model_name_or_path=None), "names no base"),
    "an unknown base": (fields(base_model_name_or_path="./nowhere"), "adapter's base: no such"),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("llama") / "base")


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_is_refused_in_one_line(fault: str, llama: Path, tmp_path: Path) -> None:
    change, message = REFUSED[fault]
    folder = dllm_adapter(tmp_path / "adapter", llama)
    tensors = low_rank_tensors(llama, "q_proj.weight")
    changes = change(tensors) or {}
    write_adapter(folder, llama, tensors, **{"target_modules": ["q_proj"], **changes})
    with pytest.raises(CheckpointError, match=message) as caught:
        load(str(folder), FLOAT32)
    assert "\n" not in str(caught.value)


def test_rows_must_exist(llama: Path, tmp_path: Path) -> None:
    folder = dllm_adapter(tmp_path / "adapter", llama)
    tensors = {DELTA: torch.zeros(1, 48)}
    write_adapter(folder, llama, tensors, trainable_token_indices=[320])
    with pytest.raises(CheckpointError, match="trains tokens that the base does not have; got 320"):
        load(str(folder), FLOAT32)
    write_adapter(folder, llama, tensors)
    with pytest.raises(CheckpointError, match=r"lacks an embedding; got 'model.embed_tokens'"):
        load(str(folder), FLOAT32)


def test_a_tied_embedding_cannot_be_replaced(llama: Path, tmp_path: Path) -> None:
    folder = dllm_adapter(tmp_path / "adapter", llama)
    write_adapter(folder, llama, {f"{PREFIX}model.embed_tokens.weight": torch.zeros(320, 48)})
    with pytest.raises(CheckpointError, match="head is tied"):
        load(str(folder), FLOAT32)


def test_an_adapter_of_an_adapter_and_one_without_weights(llama: Path, tmp_path: Path) -> None:
    first = dllm_adapter(tmp_path / "first", llama)
    second = dllm_adapter(tmp_path / "second", llama, base_model_name_or_path=str(first))
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        load(str(second), FLOAT32)
    (first / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_model.safetensors"):
        load(str(first), FLOAT32)


def test_a_base_may_lie_beside_its_adapter_or_be_not_pulled_yet(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(llama, tmp_path / "base")
    near = dllm_adapter(tmp_path / "adapter", llama, base_model_name_or_path="../base")
    assert describe(str(near), FLOAT32)["base"] == str(near / "../base")
    monkeypatch.setenv("CREDITDECODING_CACHE", str(tmp_path / "cache"))
    pulled = dllm_adapter(near, llama, base_model_name_or_path="smollm2-135m-instruct")
    with pytest.raises(CheckpointError, match="Fetch it with: credit pull smollm2-135m-instruct"):
        load(str(pulled), FLOAT32)
    shutil.copytree(llama, tmp_path / "cache" / "smollm2-135m-instruct")
    assert load(str(pulled), FLOAT32).tokenizer.mask_id == 303
