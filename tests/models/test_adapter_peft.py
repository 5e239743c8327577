"""Adapters that PEFT writes, merged here, against PEFT's own merge."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding.config import EngineConfig
from creditdecoding.models import BASES, load_model
from creditdecoding.models.autoregressive import causal_logits
from tests.helpers.tiny_bases import CLASSES, write_base

pytestmark = pytest.mark.slow

FLOAT32 = EngineConfig(dtype="float32", device="cpu")
ATTENTION = ["q_proj", "v_proj"]
ALL = [*ATTENTION, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
TOKENS = [5, 302]

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {"target_modules": ALL}),
    "stabilised": ("qwen3", {}, {"target_modules": ALL, "use_rslora": True}),
    "patterns": (
        "llama",
        {},
        {
            "target_modules": ALL,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
            "alpha_pattern": {"v_proj": 3},
        },
    ),
    "regular expression": ("llama", {}, {"target_modules": r".*\.1\.self_attn\.(q|o)_proj"}),
    "layers": ("llama", {}, {"target_modules": ATTENTION, "layers_to_transform": [1]}),
    "excluded": (
        "llama",
        {},
        {"target_modules": ATTENTION, "exclude_modules": ["0.self_attn.q_proj"]},
    ),
    "norms and head": (
        "qwen3",
        UNTIED,
        {"target_modules": ATTENTION, "modules_to_save": ["input_layernorm", "norm", "lm_head"]},
    ),
    "embedding": ("llama", UNTIED, {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
    "tokens": ("llama", {}, {"target_modules": ATTENTION, "trainable_token_indices": TOKENS}),
    "tokens, untied": (
        "llama",
        UNTIED,
        {"target_modules": ATTENTION, "trainable_token_indices": {"embed_tokens": TOKENS}},
    ),
    "biases": ("qwen2", {}, {"target_modules": ATTENTION, "bias": "all"}),
    "biases of adapted modules": ("qwen2", {}, {"target_modules": ["q_proj"], "bias": "lora_only"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_merge_is_pefts(name: str, tmp_path: Path) -> None:
    peft = import_module("peft")

    kind, changes, options = CASES[name]
    base = write_base(tmp_path / "base", kind, **changes)
    network = CLASSES[kind][1].from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=12, task_type="CAUSAL_LM", **options)
    adapted = peft.get_peft_model(network, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    tokens = torch.tensor([[5, 17, 302, 3, 44]])
    with torch.no_grad():
        merged = adapted.merge_and_unload()(tokens).logits
        ours = causal_logits(load_model(folder, FLOAT32, families=BASES), tokens)
    torch.testing.assert_close(ours, merged, rtol=1e-4, atol=1e-4)
