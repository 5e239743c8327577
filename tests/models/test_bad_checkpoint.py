"""Every way a checkpoint can be wrong gives one `CheckpointError` of one line with a hint, and
leaves the folder as it was.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import creditdecoding
from creditdecoding.checkpoint import shards
from creditdecoding.cli.app import main
from creditdecoding.errors import CheckpointError
from tests.helpers.bad_checkpoints import (
    Breaker,
    config,
    content,
    edit,
    file_contents,
    folder_for,
    index,
    lfs_pointer,
    more_ids,
    no_mask,
    one_line,
    pipe,
    refused,
    remove,
    rename_weights,
    tensors,
    truncate,
)
from tools.make_checkpoint import LLADA_8B, make

torch.set_num_threads(1)

HEAD = "model.transformer.ff_out.weight"
NORM = "model.transformer.blocks.1.attn_norm.weight"
BLOCK = "model.transformer.blocks.0."


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a fault."""
    return make("llada", tmp_path_factory.mktemp("llada") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "spoilt"))


# What is wrong, how to make it so, and what the message must name.
FILES: list[tuple[str, Breaker, tuple[str, ...]]] = [
    ("no config.json", remove("config.json"), ("config.json", "spoilt")),
    ("broken JSON", content("config.json", '{"d_model": 32,'), ("config.json", "spoilt")),
    ("empty config.json", content("config.json", ""), ("config.json", "spoilt")),
    ("not UTF-8", content("config.json", b'{"a": "\xff\xfe"}'), ("config.json", "spoilt")),
    ("JSON list", content("config.json", "[1, 2]"), ("config.json", "spoilt")),
    ("no weights file", remove("model.safetensors"), (".safetensors", "spoilt")),
    (
        "pickle only",
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        (".safetensors", "spoilt"),
    ),
    (
        "index names an absent file",
        index({"weight_map": {HEAD: "model-00007-of-00009.safetensors"}}),
        ("model-00007-of-00009.safetensors",),
    ),
    ("broken index", index("{"), ("model.safetensors.index.json",)),
    ("index is a list", index([]), ("model.safetensors.index.json",)),
    ("index without a map", index({"metadata": {}}), ("model.safetensors.index.json",)),
    ("index with a bad map", index({"weight_map": {HEAD: 1}}), ("model.safetensors.index.json",)),
    (
        "index names a file above",
        index({"weight_map": {HEAD: "../model.safetensors"}}),
        ("model.safetensors.index.json", "../model.safetensors"),
    ),
    ("index names a file anywhere", index({"weight_map": {HEAD: "/etc/passwd"}}), ("/etc/passwd",)),
    (
        "index names a file below",
        index({"weight_map": {HEAD: "x/model.safetensors"}}),
        ("x/model.safetensors",),
    ),
    (
        "index with backslashes",
        index({"weight_map": {HEAD: "..\\\\model.safetensors"}}),
        ("model.safetensors.index.json",),
    ),
    (
        "index names a zero byte",
        index({"weight_map": {HEAD: "a\\u0000.safetensors"}}),
        ("model.safetensors.index.json",),
    ),
    ("index names no weights", index({"weight_map": {HEAD: "config.json"}}), ("config.json",)),
    ("index names nothing", index({"weight_map": {}}), ("weight_map",)),
    (
        "a file of a thousand million",
        rename_weights("model-00001-of-999999999.safetensors"),
        ("model-000000002-of-999999999",),
    ),
    ("a file of more than fit", rename_weights(f"model-1-of-{'9' * 60}.safetensors"), ("missing",)),
    (
        "deep JSON",
        content("config.json", '{"a":' * 100_000 + "1" + "}" * 100_000),
        ("config.json", "spoilt"),
    ),
    ("deep index", index('{"weight_map":' * 100_000), ("model.safetensors.index.json",)),
    ("a pipe for config.json", pipe("config.json"), ("config.json", "not a file")),
    (
        "a pipe for generation_config.json",
        pipe("generation_config.json"),
        ("generation_config.json", "not a file"),
    ),
    (
        "a pipe for the index",
        pipe("model.safetensors.index.json"),
        ("model.safetensors.index.json", "not a file"),
    ),
    ("a pipe for the weights", pipe("model.safetensors"), (".safetensors",)),
    ("a pipe for the tokenizer", pipe("tokenizer.json"), ("tokenizer.json", "not a file")),
    ("a pipe for the template", pipe("chat_template.jinja"), ("chat_template.jinja", "not a file")),
    ("a folder for config.json", folder_for("config.json"), ("config.json", "not a file")),
    ("a folder for the tokenizer", folder_for("tokenizer.json"), ("tokenizer.json", "not a file")),
    (
        "a template that is no text",
        edit("tokenizer_config.json", chat_template={"default": 1}),
        ("template",),
    ),
    (
        "a template that is not UTF-8",
        content("chat_template.jinja", b"\xff\xfe"),
        ("chat_template.jinja",),
    ),
    ("empty weights", truncate(0), ("model.safetensors",)),
    ("weights cut in the header", truncate(100), ("model.safetensors",)),
    ("weights cut in the data", truncate(40_000), ("model.safetensors",)),
    (
        "weights are a web page",
        content("model.safetensors", "<html>\n<body>404</body>\n</html>\n" * 9),
        ("model.safetensors",),
    ),
    (
        "weights are an LFS pointer",
        content("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        ("model.safetensors",),
    ),
    ("no tokenizer.json", remove("tokenizer.json"), ("tokenizer.json", "spoilt")),
    (
        "broken tokenizer.json",
        content("tokenizer.json", '{"version": "1.0",'),
        ("tokenizer.json", "spoilt"),
    ),
    (
        "tokenizer.json without a model",
        content("tokenizer.json", "{}"),
        ("tokenizer.json", "spoilt"),
    ),
    ("tokenizer.json is a list", content("tokenizer.json", "[]"), ("tokenizer.json", "spoilt")),
    ("broken tokenizer_config.json", content("tokenizer_config.json", "{"), ("spoilt",)),
    (
        "endless template",
        edit(
            "tokenizer_config.json",
            chat_template="{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2,
        ),
        ("template", "too much work"),
    ),
    (
        "greedy template",
        edit("tokenizer_config.json", chat_template="{{ 'a' * 10**10 }}"),
        ("template", "too much work"),
    ),
    ("broken template", edit("tokenizer_config.json", chat_template="{% for %}"), ("template",)),
]

WEIGHTS: list[tuple[str, Breaker, tuple[str, ...]]] = [
    ("missing head", tensors({HEAD: None}), (HEAD,)),
    ("missing norm", tensors({NORM: None}), (NORM,)),
    ("one layer too few", config(n_layers=3), ("blocks.2",)),
    ("one layer too many", config(n_layers=1), ("blocks.1",)),
    (
        "extra weight",
        tensors({"model.transformer.wpe.weight": torch.zeros(4, 4)}),
        ("model.transformer.wpe.weight",),
    ),
    (
        "a bias",
        tensors({f"{BLOCK}q_proj.bias": torch.zeros(32)}),
        ("model.transformer.blocks.0.q_proj.bias",),
    ),
    ("a head although tied", config(weight_tying=True), (HEAD,)),
    ("wrong shape of a norm", tensors({NORM: torch.zeros(33)}), (NORM, "33", "32")),
    (
        "transposed",
        tensors({f"{BLOCK}ff_proj.weight": torch.zeros(32, 96)}),
        ("blocks.0.ff_proj.weight", "(32, 96)", "(96, 32)"),
    ),
    ("other kv heads", config(n_kv_heads=2), ("k_proj.weight", "(32, 32)", "(16, 32)")),
    ("a thousand million layers", config(n_layers=10**9), ("far larger", "1,000,000,000 layers")),
    ("a very wide network", config(d_model=2**30, mlp_hidden_size=2**30), ("far larger",)),
    ("a very large vocabulary", config(embedding_size=2**31 - 1), ("far larger",)),
    ("a count beyond all counts", config(n_layers=10**30), ("n_layers",)),
    ("other rows", config(embedding_size=512, vocab_size=512), ("384", "512")),
]

TOKENS: list[tuple[str, Breaker, tuple[str, ...]]] = [
    ("no mask anywhere", no_mask, ("mask",)),
    ("mask id outside the tokenizer", config(mask_token_id=380), ("mask", "380")),
    ("mask id below zero", config(mask_token_id=-1), ("mask", "-1")),
    ("more ids than rows", more_ids, ("409", "384")),
]

# Fields of config.json that change the network, each with a value that is not implemented.
REFUSED: list[tuple[str, Any]] = [
    ("alibi", True),
    ("scale_logits", True),
    ("input_emb_norm", True),
    ("attention_layer_norm", True),
    ("layer_norm_type", "default"),
    ("layer_norm_type", "low_precision"),
    ("block_type", "sequential"),
    ("block_group_size", 2),
    ("activation_type", "gelu"),
    ("rope", False),
    ("include_bias", True),
    ("include_qkv_bias", True),
    ("bias_for_layer_norm", True),
    ("layer_norm_with_affine", False),
]

NEEDED = (
    "d_model",
    "n_layers",
    "n_heads",
    "vocab_size",
    "max_sequence_length",
    "rope_theta",
    "rms_norm_eps",
    "eos_token_id",
)

# Values that are no numbers, or numbers no network has.
SENSELESS: list[tuple[str, Any]] = [
    ("d_model", "wide"),
    ("d_model", -32),
    ("n_layers", [2]),
    ("n_layers", 0),
    ("n_heads", 0),
    ("n_heads", 5),
    ("n_kv_heads", 3),
    ("n_kv_heads", -1),
    ("mlp_hidden_size", "big"),
    ("embedding_size", -384),
    ("max_sequence_length", 0),
    ("rope_theta", "1e4x"),
    ("rope_theta", float("nan")),
    ("rope_theta", 0),
    ("rms_norm_eps", {}),
    ("eos_token_id", "</s>"),
    ("mask_token_id", "<|mdm_mask|>"),
]

ARCHITECTURES: list[tuple[Any, str]] = [
    (["LlamaForCausalLM"], "LlamaForCausalLM"),
    (["LLaDAMoEModel"], "LLaDAMoEModel"),
    ([], "LLaDAModelLM"),
    (None, "LLaDAModelLM"),
    ("LlamaForCausalLM", "LlamaForCausalLM"),
    (5, "architecture"),
]


@pytest.mark.parametrize(
    ("breaker", "named"),
    [case[1:] for case in FILES + WEIGHTS + TOKENS],
    ids=[case[0] for case in FILES + WEIGHTS + TOKENS],
)
def test_a_spoilt_folder_is_refused(breaker: Breaker, named: tuple[str, ...], folder: Path) -> None:
    breaker(folder)
    before = file_contents(folder)
    error = refused(str(folder))
    for part in named:
        assert part in str(error), (part, str(error))
    assert file_contents(folder) == before


@pytest.mark.parametrize(
    ("name", "value"), REFUSED, ids=[f"{name}={value}" for name, value in REFUSED]
)
def test_what_is_not_implemented_is_refused_by_name(name: str, value: Any, folder: Path) -> None:
    assert LLADA_8B[name] != value
    config(**{name: value})(folder)
    error = refused(str(folder))
    assert name in str(error) and repr(value) in str(error) and repr(LLADA_8B[name]) in str(error)


@pytest.mark.parametrize("name", NEEDED)
def test_a_needed_field_is_missed_by_name(name: str, folder: Path) -> None:
    config(drop=(name,))(folder)
    assert f"lacks {name}" in str(refused(str(folder)))


@pytest.mark.parametrize(
    ("name", "value"), SENSELESS, ids=[f"{name}={value}" for name, value in SENSELESS]
)
def test_a_senseless_value_is_refused(name: str, value: Any, folder: Path) -> None:
    config(**{name: value})(folder)
    error = refused(str(folder))
    assert "config.json" in str(error) and str(value) in str(error)


@pytest.mark.parametrize(
    ("architectures", "named"), ARCHITECTURES, ids=[str(value) for value, _ in ARCHITECTURES]
)
def test_an_unsupported_architecture_is_refused(
    architectures: Any, named: str, folder: Path
) -> None:
    config(architectures=architectures)(folder)
    assert named in str(refused(str(folder)))


def test_other_writings_of_the_same_config_are_read(folder: Path) -> None:
    """What must not be refused: fields absent, null heads, an end token list, unknown training
    fields.
    """
    config(
        drop=("alibi", "scale_logits", "block_group_size", "multi_query_attention", "pad_token_id"),
        n_kv_heads=None,
        eos_token_id=[301, 308],
    )(folder)
    config(my_training_note="x", embedding_size=None)(folder)
    lm = creditdecoding.load(str(folder), device="cpu")
    assert lm.tokenizer.stop_ids == (301, 308)


def test_weights_come_from_the_files_that_the_index_names(whole: Path, tmp_path: Path) -> None:
    sharded = make("llada", tmp_path / "sharded", shards=2)
    save_file({"stray.weight": torch.zeros(1)}, str(sharded / "training_state.safetensors"))
    model, same = (
        creditdecoding.load(str(path), device="cpu").model.state_dict() for path in (sharded, whole)
    )
    assert all(torch.equal(weight, same[name]) for name, weight in model.items())
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in str(refused(str(sharded)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_too_long_is_not_read(name: str, folder: Path) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(2**40)  # nothing of it is stored
    message = str(refused(str(folder)))
    assert name in message and "too long" in message


def test_weights_may_be_links_as_in_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in sorted(folder.iterdir()):
        path.rename(blobs / f"{path.name}-blob")
        path.symlink_to(blobs / f"{path.name}-blob")
    assert creditdecoding.load(str(folder), device="cpu").tokenizer.size


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint in three files, to spoil."""
    return make("llada", tmp_path / "sharded", shards=3, n_kv_heads=2)


def recast(dtype: torch.dtype) -> Callable[[Path], object]:
    """One matrix in another dtype."""

    def apply(folder: Path) -> None:
        path = folder / "model-00002-of-00003.safetensors"
        weights = load_file(path)
        name = max(weights, key=lambda name: weights[name].numel())
        save_file({**weights, name: weights[name].to(dtype)}, str(path))

    return apply


def pickled(folder: Path) -> None:
    """Weights that could run code."""
    for i, path in enumerate(shards(folder)):
        path.rename(folder / f"pytorch_model-{i}.bin")
    (folder / "model.safetensors.index.json").unlink()


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
SHARDED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "shard missing": (
        lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
        ("model-00002-of-00003.safetensors",),
    ),
    "shard truncated": (
        truncate(-1, "model-00003-of-00003.safetensors"),
        ("model-00003-of-00003.safetensors", "truncated"),
    ),
    "float8": (recast(torch.float8_e4m3fn), ("F8_E4M3", "bfloat16")),
    "int8": (recast(torch.int8), ("I8", "bfloat16")),
    "quantised by config": (config(quantization_config=FP8), ("fp8", "bfloat16")),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), ("gptq",)),
    "pickled": (pickled, ("pytorch_model-0.bin", "save_pretrained")),
    "pointer for weights": (
        lfs_pointer("model-00002-of-00003.safetensors"),
        ("model-00002-of-00003.safetensors", "git lfs pull"),
    ),
    "pointer for the tokenizer": (
        lfs_pointer("tokenizer.json"),
        ("tokenizer.json", "git lfs pull"),
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ("tokenizer.json",)),
    "its own code": (
        config(architectures=["OtherModelLM"]),
        ("OtherModelLM", "its own code", "LLaDAModelLM"),
    ),
    "unsupported": (
        config(architectures=["LlamaForCausalLM"], auto_map=None),
        ("LlamaForCausalLM", "LLaDAModelLM"),
    ),
    "config of another size": (
        config(mlp_hidden_size=64),
        ("ff_out.weight", "(32, 96)", "(32, 64)", "do not belong together"),
    ),
    "more layers in config": (config(n_layers=3), ("blocks.2",)),
    "fewer layers in config": (config(n_layers=1), ("blocks.1",)),
}


@pytest.mark.parametrize("case", SHARDED)
def test_a_bad_checkpoint_is_refused_in_one_line(
    case: str, sharded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("creditdecoding.models.weights._read_tensors", never)
    spoil, named = SHARDED[case]
    spoil(sharded)
    with pytest.raises(CheckpointError) as caught:
        creditdecoding.load(str(sharded), device="cpu")
    message = one_line(caught.value)
    assert all(part in message for part in named), message
    monkeypatch.setattr(sys, "argv", ["credit", "info", "--model", str(sharded), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and err == f"error: {message}\n"
