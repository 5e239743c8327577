"""Every way a checkpoint can be wrong gives one `CheckpointError` of one line with a hint, and
leaves the folder as it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors.torch import load_file, save_file

import creditdecoding
from creditdecoding.errors import CheckpointError
from tools.make_checkpoint import LLADA_8B, llada_tokenizer, make, write_json

torch.set_num_threads(1)

Breaker = Callable[[Path], object]
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


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(name: str) -> CheckpointError:
    """The error with which `name` is refused, held to the shape that every error has."""
    with pytest.raises(CheckpointError) as caught:
        creditdecoding.load(name, device="cpu")
    error = caught.value
    assert error.hint and str(error).endswith(error.hint), error
    assert len(str(error).splitlines()) == 1 and len(str(error)) < 600, error
    return error


def edit(file: str, drop: tuple[str, ...] = (), **changes: Any) -> Breaker:
    """Change some fields of a JSON file, or drop them."""

    def apply(folder: Path) -> None:
        raw = json.loads((folder / file).read_text())
        write_json(
            folder / file,
            {name: value for name, value in {**raw, **changes}.items() if name not in drop},
        )

    return apply


def config(drop: tuple[str, ...] = (), **changes: Any) -> Breaker:
    """Change config.json."""
    return edit("config.json", drop, **changes)


def text(file: str, content: str | bytes) -> Breaker:
    """Replace a file."""
    return lambda folder: (folder / file).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def gone(*files: str) -> Breaker:
    """Remove files."""

    def apply(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return apply


def cut(size: int) -> Breaker:
    """Truncate the weights after `size` bytes."""
    return lambda folder: text(
        "model.safetensors", (folder / "model.safetensors").read_bytes()[:size]
    )(folder)


def weights(changes: dict[str, torch.Tensor | None]) -> Breaker:
    """Add, replace or (None) drop tensors."""

    def apply(folder: Path) -> None:
        found = {**load_file(folder / "model.safetensors"), **changes}
        save_file(
            {name: value for name, value in found.items() if value is not None},
            str(folder / "model.safetensors"),
            metadata={"format": "pt"},
        )

    return apply


def index(content: Any) -> Breaker:
    """Add an index, as text or as data."""
    return text(
        "model.safetensors.index.json", content if isinstance(content, str) else json.dumps(content)
    )


def more_ids(folder: Path) -> None:
    """A tokenizer that has grown beyond the embedding."""
    tokenizer = llada_tokenizer()
    tokenizer.add_tokens([f"<extra {i}>" for i in range(100)])
    tokenizer.save(str(folder / "tokenizer.json"))


def pipe(name: str) -> Breaker:
    """A pipe that nobody writes to in place of a file."""

    def apply(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return apply


def folder_of(name: str) -> Breaker:
    """A folder in place of a file."""

    def apply(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return apply


def renamed(name: str) -> Breaker:
    """Another name for the weights."""
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def no_mask(folder: Path) -> None:
    """Neither config.json nor the tokenizer knows a mask."""
    config(drop=("mask_token_id",))(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_text(
            (folder / file).read_text().replace("<|mdm_mask|>", "<|reserved_token_9|>")
        )


# What is wrong, how to make it so, and what the message must name.
FILES: list[tuple[str, Breaker, tuple[str, ...]]] = [
    ("no config.json", gone("config.json"), ("config.json", "spoilt")),
    ("broken JSON", text("config.json", '{"d_model": 32,'), ("config.json", "spoilt")),
    ("empty config.json", text("config.json", ""), ("config.json", "spoilt")),
    ("not UTF-8", text("config.json", b'{"a": "\xff\xfe"}'), ("config.json", "spoilt")),
    ("JSON list", text("config.json", "[1, 2]"), ("config.json", "spoilt")),
    ("no weights file", gone("model.safetensors"), (".safetensors", "spoilt")),
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
        renamed("model-00001-of-999999999.safetensors"),
        ("model-000000002-of-999999999",),
    ),
    ("a file of more than fit", renamed(f"model-1-of-{'9' * 60}.safetensors"), ("missing",)),
    (
        "deep JSON",
        text("config.json", '{"a":' * 100_000 + "1" + "}" * 100_000),
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
    ("a folder for config.json", folder_of("config.json"), ("config.json", "not a file")),
    ("a folder for the tokenizer", folder_of("tokenizer.json"), ("tokenizer.json", "not a file")),
    (
        "a template that is no text",
        edit("tokenizer_config.json", chat_template={"default": 1}),
        ("template",),
    ),
    (
        "a template that is not UTF-8",
        text("chat_template.jinja", b"\xff\xfe"),
        ("chat_template.jinja",),
    ),
    ("empty weights", cut(0), ("model.safetensors",)),
    ("weights cut in the header", cut(100), ("model.safetensors",)),
    ("weights cut in the data", cut(40_000), ("model.safetensors",)),
    (
        "weights are a web page",
        text("model.safetensors", "<html>\n<body>404</body>\n</html>\n" * 9),
        ("model.safetensors",),
    ),
    (
        "weights are an LFS pointer",
        text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        ("model.safetensors",),
    ),
    ("no tokenizer.json", gone("tokenizer.json"), ("tokenizer.json", "spoilt")),
    (
        "broken tokenizer.json",
        text("tokenizer.json", '{"version": "1.0",'),
        ("tokenizer.json", "spoilt"),
    ),
    ("tokenizer.json without a model", text("tokenizer.json", "{}"), ("tokenizer.json", "spoilt")),
    ("tokenizer.json is a list", text("tokenizer.json", "[]"), ("tokenizer.json", "spoilt")),
    ("broken tokenizer_config.json", text("tokenizer_config.json", "{"), ("spoilt",)),
    (
        "endless template",
        edit(
            "tokenizer_config.json",
            chat_template="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
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
    ("missing head", weights({HEAD: None}), (HEAD,)),
    ("missing norm", weights({NORM: None}), (NORM,)),
    ("one layer too few", config(n_layers=3), ("blocks.2",)),
    ("one layer too many", config(n_layers=1), ("blocks.1",)),
    (
        "extra weight",
        weights({"model.transformer.wpe.weight": torch.zeros(4, 4)}),
        ("model.transformer.wpe.weight",),
    ),
    (
        "a bias",
        weights({f"{BLOCK}q_proj.bias": torch.zeros(32)}),
        ("model.transformer.blocks.0.q_proj.bias",),
    ),
    ("a head although tied", config(weight_tying=True), (HEAD,)),
    ("wrong shape of a norm", weights({NORM: torch.zeros(33)}), (NORM, "33", "32")),
    (
        "transposed",
        weights({f"{BLOCK}ff_proj.weight": torch.zeros(32, 96)}),
        ("blocks.0.ff_proj.weight", "(32, 96)", "(96, 32)"),
    ),
    ("other kv heads", config(n_kv_heads=2), ("k_proj.weight", "(32, 32)", "(16, 32)")),
    ("a thousand million layers", config(n_layers=10**9), ("far larger", "1000000000 layers")),
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
    before = contents(folder)
    error = refused(str(folder))
    for part in named:
        assert part in str(error), (part, str(error))
    assert contents(folder) == before


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
    ("given", "named"), ARCHITECTURES, ids=[str(given) for given, _ in ARCHITECTURES]
)
def test_an_unsupported_architecture_is_refused(given: Any, named: str, folder: Path) -> None:
    config(architectures=given)(folder)
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


@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere", "../no/where", "/no/such/folder", "~/no-such-folder", "a/b/c"]
)
def test_a_folder_that_is_not_there_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("this is not a hub id")

    monkeypatch.setattr("creditdecoding.checkpoint.snapshot_download", never)
    assert name in str(refused(name))


@pytest.mark.parametrize(
    "name",
    [
        "here/modle",
        "here/models/",
        "./here/x",
        "a/b/c/d",
        "here//x",
        "org/name/",
        "~nobody-here/x",
        "a\0b",
        "x" * 5000,
    ],
)
def test_a_mistyped_path_does_not_go_to_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("this is not a hub id")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("creditdecoding.checkpoint.snapshot_download", never)
    said = str(refused(name))
    assert "no such folder" in said or "/" not in name


@pytest.mark.parametrize("name", ["GSAI-ML/LLaDA-8B-Instruct", "a/b", "some_org/model_1.5-b8"])
def test_hub_ids_go_to_the_hub(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "creditdecoding.checkpoint.snapshot_download", lambda name, **given: str(folder)
    )
    assert creditdecoding.checkpoint.resolve_checkpoint(name) == folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_too_long_is_not_read(name: str, folder: Path) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(2**40)  # nothing of it is stored
    said = str(refused(str(folder)))
    assert name in said and "too long" in said


def test_weights_may_be_links_as_in_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in sorted(folder.iterdir()):
        path.rename(blobs / f"{path.name}-blob")
        path.symlink_to(blobs / f"{path.name}-blob")
    assert creditdecoding.load(str(folder), device="cpu").tokenizer.size


def test_a_file_in_place_of_a_folder_is_named(folder: Path) -> None:
    assert "config.json" in str(refused(str(folder / "config.json")))


# What the hub's HTTP library (another one in hub 1.x and 2.x) raises when a download breaks off: no
# OSError.
HTTPError = HfHubHTTPError.__bases__[0]

UNREACHABLE: list[tuple[str, Exception]] = [
    ("no route", OSError("[Errno 101] Network is unreachable")),
    ("without a word", ConnectionError()),
    (
        "not cached",
        LocalEntryNotFoundError(
            "Cannot find an appropriate cached snapshot folder\nfor the specified revision."
        ),
    ),
    ("offline", OfflineModeIsEnabled("offline mode is enabled")),
    ("bad id", HFValidationError("Repo id must be in the form 'namespace/repo_name'")),
    ("broke off while downloading", HTTPError("The read operation timed out")),
]


@pytest.mark.parametrize(
    "raised", [case[1] for case in UNREACHABLE], ids=[case[0] for case in UNREACHABLE]
)
def test_a_hub_id_that_cannot_be_had_is_named(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise raised

    monkeypatch.setattr("creditdecoding.checkpoint.snapshot_download", fail)
    error = refused("some-org/some-model")
    assert "some-org/some-model" in str(error) and error.__cause__ is raised


def test_a_hub_id_is_loaded_without_its_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str], **others: Any) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    (folder / "modeling_llada.py").write_text("raise SystemExit('remote code ran')")
    monkeypatch.setattr("creditdecoding.checkpoint.snapshot_download", download)
    lm = creditdecoding.load("some-org/some-model", device="cpu")
    assert lm.generate("Hi", gen_length=4).nfe >= 1
    ((name, patterns),) = asked
    assert name == "some-org/some-model"
    assert not any(
        Path("modeling_llada.py").match(pattern) or Path("pytorch_model.bin").match(pattern)
        for pattern in patterns
    )
    needed = {path.name for path in folder.iterdir()} - {"modeling_llada.py"}
    assert all(
        any(Path(file).match(pattern) for pattern in patterns)
        for file in {*needed, "chat_template.jinja", "merges.txt"}
    )
