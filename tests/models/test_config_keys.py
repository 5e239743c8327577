"""config.json key by key: the released files load, and whatever may be another network is refused
by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.config import EngineConfig
from creditdecoding.description import describe
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.models import FAMILIES, family_of, read_config
from tests.helpers.cli import run_credit
from tools.checkpoints import ling, qwen
from tools.make_checkpoint import FAMILIES as WRITERS
from tools.make_checkpoint import LLADA_8B, make

# What transformers and the training codes of the families write beside what describes the network.
WRITTEN: dict[str, Any] = {
    "_attn_implementation_autoset": True,
    "_name_or_path": "/home/someone/checkpoints/run-7",
    "attention_dropout": 0.1,
    "bos_token_id": 1,
    "do_sample": True,
    "embedding_dropout": 0.0,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "my_training_note": "x",
    "output_dropout": 0.0,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "some_new_list": [],
    "some_new_switch": False,
    "temperature": 0.7,
    "tokenizer_class": "Other",
    "transformers_version": "5.24.0",
    "use_cache": True,
}

# The released config.json files: what is known of each, and the further keys of copies in
# public repositories.
RELEASED: dict[str, dict[str, Any]] = {
    "LLaDA-8B": LLADA_8B,
    "iLLaDA-8B": {
        **LLADA_8B,
        "n_kv_heads": 8,
        "mlp_hidden_size": 14336,
        "vocab_size": 155136,
        "embedding_size": 155136,
        "weight_tying": True,
    },
    "LLaDA-MoE": {
        **ling.LLADA_MOE,
        "router_num_group": 8,
        "router_topk_group": 4,
        "norm_topk_prob": None,
    },
    "LLaDA-MoE renamed": {
        **ling.LLADA_MOE,
        "model_type": "lladamoe",
        "architectures": ["LLaDAMoEModelLM"],
    },
    "LLaDA2.1-mini": ling.LLADA2_MINI,
    "LLaDA2.1-flash": {**ling.LLADA2_FLASH, "use_qk_norm": True},
    "LLaDA2 for training": {
        **ling.LLADA2_MINI,
        "_moe_implementation": "fused",
        "expert_capacity": 0,
        "model_type": "llada2_moe_veomni",
        "use_rmsnorm": True,
        "using_split_qkv_in_self_attention": False,
    },
    "LLaDA2.1 renamed": {**ling.LLADA2_MINI, "model_type": "llada21_moe"},
    "DiffuCoder": qwen.DREAM_7B,
    "Dream by transformers 5": {
        **qwen.DREAM_7B,
        "rope_theta": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "Dream of another hand": {**qwen.DREAM_7B, "attention_bias": False, "model_type": "dream"},
    "SDAR-4B": qwen.SDAR_4B,
    "SDAR for training": {**qwen.SDAR_4B, "block_size": 4, "mask_token_id": 151669},
    "SDAR-30B-A3B": {**qwen.SDAR_30B, "router_aux_loss_coef": 0.001, "output_router_logits": False},
    "Fast_dLLM_v2": qwen.FAST_DLLM_7B,
}


def write(folder: Path, raw: dict[str, Any]) -> Path:
    """A folder that holds this config.json alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize("name", list(RELEASED))
def test_released_configs_are_read_with_all_that_is_written_beside(
    name: str, tmp_path: Path
) -> None:
    plain = read_config(write(tmp_path / "plain", RELEASED[name]))
    assert read_config(write(tmp_path / "more", {**WRITTEN, **RELEASED[name]})) == plain


BASES = {
    "llada": LLADA_8B,
    "llada_moe": ling.LLADA_MOE,
    "llada2": ling.LLADA2_MINI,
    "dream": qwen.DREAM_7B,
    "sdar": qwen.SDAR_4B,
    "sdar_moe": qwen.SDAR_30B,
    "fast_dllm": qwen.FAST_DLLM_7B,
}

# Keys of other networks, each with a value that may change the network.
ANYWHERE: dict[str, Any] = {
    "attention_multiplier": 0.0078125,
    "attention_sinks": 4,
    "attn_logit_softcapping": 30,
    "attn_output_gate": True,
    "clip_qkv": 8.0,
    "dlm_paradigm": "bidirectional",
    "embedding_multiplier": 12.0,
    "expert_capacity": 48,
    "final_logit_softcapping": 30.0,
    "is_causal": True,
    "layer_types": ["full_attention", "sliding_attention"],
    "llama_4_scaling_beta": 0.1,
    "logit_scale": 0.0625,
    "mlp_bias": True,
    "model_type": "llada2_2_moe",
    "no_rope_layers": [1, 0],
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.25,
    "position_embedding_type": "learned",
    "qk_nope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8"},
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0},
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "sliding_window": 4096,
    "text_config": {"hidden_size": 8},
    "time_conditioning": True,
    "use_rmsnorm": False,
    "use_regular_causal": True,
    "vision_config": {"depth": 2},
}


@pytest.mark.parametrize("base", list(BASES))
def test_keys_of_other_networks_are_refused_by_name(base: str, tmp_path: Path) -> None:
    for key, value in ANYWHERE.items():
        raw = {**BASES[base], key: value}
        if key == "sliding_window":
            raw.pop("use_sliding_window", None)
        with pytest.raises(CheckpointError) as caught:
            read_config(write(tmp_path / key, raw))
        message = str(caught.value)
        assert key in message and len(message.splitlines()) == 1 and len(message) < 600, message


def test_an_invented_key_is_refused_in_every_family(tmp_path: Path) -> None:
    """Also one that a reader sees only because it copies the config or loops over it."""
    covered = []
    for name in WRITERS:
        folder = make(name, tmp_path / name, invented_key=7)
        covered.append(family_of(folder))
        with pytest.raises(CheckpointError, match="invented_key"):
            read_config(folder)
    for family in FAMILIES:
        assert family in covered, f"{family}: tools/make_checkpoint.py writes no checkpoint of it"


NESTED: list[tuple[str, dict[str, Any], str]] = [
    ("sdar", {"logit_shift": True}, "logit_shift"),
    ("dream", {"logit_shift": False}, "logit_shift"),
    ("fast_dllm", {"shift_logits": False}, "shift_logits"),
    (
        "dream",
        {"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}},
        "mrope_section",
    ),
    ("dream", {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "full_attention"),
    ("dream", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta"),
    ("llada2", {"expert_capacity": 2, "block_size": 8}, "expert_capacity"),
    ("llada2", {"using_split_qkv_in_self_attention": True}, "using_split_qkv_in_self_attention"),
    ("llada2", {"first_k_dense_replace": 10**9}, "first_k_dense_replace"),
    (
        "sdar",
        {"new_a": 1, "new_b": 2, "new_c": 3, "new_d": "x" * 10**6, "new_e": 5, "new_f": 6},
        "and 1 more",
    ),
    ("llada", {"llm_vocab_size": 126464, "num_vq_tokens": 1024}, "llm_vocab_size"),
    ("sdar", {"eos_token_id": 10**9}, "eos_token_id"),
    ("sdar", {"num_hidden_layers": 10**400}, "num_hidden_layers"),
    ("sdar", {"rope_theta": 10**400}, "rope_theta"),
    ("sdar", {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ("sdar", {"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
    ("sdar", {"architectures": ["x" * 10**6]}, "unsupported"),
    ("sdar", {"block_size": 10**6}, "block"),
]


@pytest.mark.parametrize(("base", "changes", "named"), NESTED, ids=[named for *_, named in NESTED])
def test_values_that_are_another_network_are_refused_by_name(
    base: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(write(tmp_path, {**BASES[base], **changes}))
    message = str(caught.value)
    assert named in message and len(message.splitlines()) == 1 and len(message) < 700, message


STRANGE: list[Any] = [True, -1, float("nan"), "x", [None], {"type": [1]}, 10**30]


@pytest.mark.slow
@pytest.mark.parametrize("base", list(BASES))
def test_any_value_of_any_key_is_read_or_refused_in_a_line(base: str, tmp_path: Path) -> None:
    for key in [*BASES[base], "block_size", "head_dim", "moe_layer_freq", "rope_parameters"]:
        for value in STRANGE:
            folder = write(tmp_path, {**BASES[base], key: value})
            try:
                read_config(folder)
            except CheckpointError as error:
                assert len(str(error).splitlines()) == 1 and len(str(error)) < 700


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("DreamReasoner", {"architectures": ["DreamForCausalLM"], "model_type": "Dream"}),
    (
        "DiffusionGemma",
        {"architectures": ["DiffusionGemmaForBlockDiffusion"], "model_type": "diffusion_gemma"},
    ),
    (
        "Nemotron-Labs-Diffusion",
        {"architectures": ["NemotronLabsDiffusionModel"], "model_type": "nemotron_labs_diffusion"},
    ),
    ("Nemotron-Labs-Diffusion", {"model_type": "nemotron_labs_diffusion"}),
    ("LLaDA-MoE-v2", {"architectures": ["LLaDAMoEV2ModelLM"]}),
    ("LLaDA-MoE-v2", {**ling.LLADA_MOE, "_name_or_path": "GSAI-ML/LLaDA-MoE-v2-30B-A3B-Base"}),
    ("WeDLM", {"architectures": ["WeDLMForCausalLM"]}),
    ("MinerU-Diffusion", {"architectures": ["MinerUDiffusionForConditionalGeneration"]}),
    ("TwoTower", {"architectures": ["TwoTowerForCausalLM"]}),
    ("Stable-DiffCoder", {"architectures": ["StableDiffCoderForCausalLM"]}),
    ("LLaDA2.0-Uni", {**ling.LLADA2_MINI, "_name_or_path": "inclusionAI/LLaDA2.0-Uni"}),
    ("LLaDA2.0-Uni", {**ling.LLADA2_MINI, "image_token_offset": 157184}),
    ("I-DLM", {**qwen.SDAR_4B, "_name_or_path": "some-org/I-DLM-8B"}),
    ("I-DLM", {"architectures": ["IDLMForCausalLM"]}),
    ("images", {"architectures": ["MMadaModelLM"], "model_type": "mmada"}),
]


@pytest.mark.parametrize(
    ("named", "raw"), OTHERS, ids=[f"{i}-{named}" for i, (named, _) in enumerate(OTHERS)]
)
def test_other_diffusion_models_are_refused_by_name(
    named: str, raw: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(write(tmp_path / "here", raw))
    error = caught.value
    assert (
        named in str(error)
        and error.hint
        and len(str(error).splitlines()) == 1
        and len(str(error)) < 600
    )


@pytest.mark.parametrize("repository", ["I-DLM-8B", "models--some-org--I-DLM-32B/snapshots/0123"])
def test_a_repository_that_calls_itself_sdar_is_known_by_its_name(
    repository: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="I-DLM"):
        read_config(write(tmp_path / repository, qwen.SDAR_4B))


@pytest.mark.parametrize(
    "name",
    [
        "DiffuCoder-7B",
        "Dream-Coder-v0",
        "hybridlm",
        "LLaDA-1.5",
        "TraDo-8B",
        "LLaDA2.1-mini",
        "DreamOn-v0-7B",
    ],
)
def test_names_of_what_is_implemented_are_no_others(name: str, tmp_path: Path) -> None:
    read_config(write(tmp_path / name, qwen.DREAM_7B))


def test_a_key_can_be_ignored_by_name(tmp_path: Path) -> None:
    folder = make("sdar", tmp_path / "sdar", some_new_option=7)
    with pytest.raises(CheckpointError, match="--ignore-config-keys some_new_option"):
        describe(str(folder), EngineConfig(device="cpu"))
    ignoring = EngineConfig(device="cpu", ignore_config_keys=("some_new_option",))
    assert describe(str(folder), ignoring)["family"] == "sdar"
    with pytest.raises(OptionError, match="some_old_option"):
        describe(str(folder), EngineConfig(device="cpu", ignore_config_keys=("some_old_option",)))
    assert family_of(folder).RENAME


def test_block_routing_is_refused_with_the_name_of_the_model(tmp_path: Path) -> None:
    folder = make("llada2", tmp_path / "llada2", expert_capacity=2, block_size=8)
    refused = run_credit(["info", "--model", folder, "--device", "cpu"])
    assert refused.status == 2 and refused.stdout == ""
    assert (
        "expert_capacity" in refused.stderr
        and "LLaDA2.2" in refused.stderr
        and len(refused.stderr.splitlines()) == 1
    )


def test_the_command_line_ignores_a_key_too(tmp_path: Path) -> None:
    folder = make("sdar", tmp_path / "sdar", some_new_option=7)
    command = ["info", "--model", folder, "--device", "cpu"]
    refused = run_credit(command)
    assert refused.status == 2 and "some_new_option" in refused.stderr
    assert run_credit([*command, "--ignore-config-keys", "some_new_option"]).status == 0
