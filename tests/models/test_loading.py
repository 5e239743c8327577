"""Loading: where tensors land, what is checked before a byte is read, what it costs, where
checkpoints come from.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import creditdecoding
from creditdecoding.checkpoint import resolve_checkpoint, shards
from creditdecoding.cli import loading
from creditdecoding.cli.app import load_lm, main
from creditdecoding.config import EngineConfig
from creditdecoding.errors import CheckpointError, MissingExtraError, OptionError
from creditdecoding.lm import describe
from creditdecoding.models import build_on_meta, load_model, memory, quantize
from creditdecoding.models.weights import Part, Rename, experts, load_weights, read_headers, stacked
from tools.make_checkpoint import make, write_json, write_weights

torch.set_num_threads(1)

CPU = torch.device("cpu")
E, I, H = 3, 4, 8  # noqa: E741
HEIGHTS = {"q": 8, "k": 4, "v": 4}


class Inner(nn.Module):
    """The expert layer's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(H, E, bias=False)
        self.register_buffer("bias", torch.zeros(E))
        self.gate_up = nn.Parameter(torch.empty(E, 2 * I, H))
        self.down = nn.Parameter(torch.empty(E, H, I))


class Block(nn.Module):
    """A layer with projections, and experts unless it is the first."""

    def __init__(self, n: int) -> None:
        super().__init__()
        for name, rows in HEIGHTS.items():
            setattr(self, name, nn.Linear(H, rows, bias=n == 0))
        if n:
            self.mlp = Inner()


class Net(nn.Module):
    """What a family's network has, as small as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, H)
        self.layers = nn.ModuleList(Block(n) for n in range(2))


FUSED = "model.layers.{n}.attention.query_key_value"
OURS = [f"layers.{{n}}.{name}" for name in HEIGHTS]
RENAME: Rename = {
    "embed.weight": "model.word_embeddings.weight",
    **stacked(f"{FUSED}.weight", *(f"{name}.weight" for name in OURS)),
    **stacked(f"{FUSED}.bias", *(f"{name}.bias" for name in OURS)),
    "layers.{n}.mlp.router.weight": "model.layers.{n}.mlp.gate.weight",
    "layers.{n}.mlp.bias": "model.layers.{n}.mlp.gate.expert_bias",
    **experts("model.layers.{n}.mlp.experts"),
}


def net() -> Net:
    """An empty network."""
    with torch.device("meta"):
        return Net()


def wanted(seed: int = 0) -> dict[str, Tensor]:
    """What the network must hold in the end, by our names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in net().state_dict().items()
    }


def released(ours: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The same weights as LLaDA2 files hold them, experts in one of the three layouts; written from
    the published names.
    """
    found = {
        "model.word_embeddings.weight": ours["embed.weight"],
        "model.layers.1.mlp.gate.weight": ours["layers.1.mlp.router.weight"],
        "model.layers.1.mlp.gate.expert_bias": ours["layers.1.mlp.bias"],
        "model.layers.0.attention.query_key_value.bias": torch.cat(
            [ours[f"layers.0.{name}.bias"] for name in "qkv"]
        ),
    }
    for n in range(2):
        found[f"model.layers.{n}.attention.query_key_value.weight"] = torch.cat(
            [ours[f"layers.{n}.{name}.weight"] for name in "qkv"]
        )
    top, gate_up, down = (
        "model.layers.1.mlp.experts",
        ours["layers.1.mlp.gate_up"],
        ours["layers.1.mlp.down"],
    )
    gate, up = gate_up[:, :I], gate_up[:, I:]
    if layout == "transformers 5":
        found |= {f"{top}.gate_up_proj": gate_up, f"{top}.down_proj": down}
    elif layout == "merged":
        found |= {f"{top}.gate_proj": gate, f"{top}.up_proj": up, f"{top}.down_proj": down}
    else:
        for j in range(E):
            found |= {
                f"{top}.{j}.{name}_proj.weight": w[j]
                for name, w in (("gate", gate), ("up", up), ("down", down))
            }
    return {name: weight.contiguous().clone() for name, weight in found.items()}


def load(
    folder: Path,
    weights: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
    files: int = 1,
    rename: Rename = RENAME,
) -> Net:
    """Write `weights`, read them back into an empty network."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, folder, files)
    model = net()
    load_weights(model, folder, rename, CPU, dtype)
    return model


LAYOUTS = ("one by one", "merged", "transformers 5")


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_experts_and_fused_projections_lands_in_its_place(
    layout: str, files: int, tmp_path: Path
) -> None:
    ours = wanted()
    found = load(tmp_path, released(ours, layout), files=files).state_dict()
    assert found.keys() == ours.keys()
    for name, weight in ours.items():
        assert torch.equal(found[name], weight), name


def test_parameters_take_the_dtype_and_buffers_keep_theirs(tmp_path: Path) -> None:
    ours = wanted()
    halves = {
        name: w if name.endswith("expert_bias") else w.bfloat16()
        for name, w in released(ours, "merged").items()
    }
    model = load(tmp_path, halves, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and not any(
        p.requires_grad for p in model.parameters()
    )
    assert isinstance(dict(model.named_buffers())["layers.1.mlp.bias"], Tensor)
    assert torch.equal(model.layers[1].mlp.bias, ours["layers.1.mlp.bias"])  # not a bit lost


BROKEN = [
    (layout, name, change)
    for layout, names in {
        "one by one": ("experts.2.up_proj.weight", "experts.0.down_proj.weight"),
        "merged": ("experts.up_proj", "experts.down_proj"),
        "transformers 5": ("experts.gate_up_proj", "experts.down_proj"),
    }.items()
    for name in (*names, "gate.expert_bias")
    for change in ("missing", "shape", "twice")
]


@pytest.mark.parametrize(("layout", "name", "change"), BROKEN)
def test_what_is_missing_misshapen_or_there_twice_is_named(
    layout: str, name: str, change: str, tmp_path: Path
) -> None:
    weights, full = released(wanted(), layout), f"model.layers.1.mlp.{name}"
    weight = weights.pop(full)
    if change == "shape":
        weights[full] = weight[:-1].clone()
    elif change == "twice":
        weights[full] = weight
        save_file({full: weight}, str(tmp_path / "again.safetensors"))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, weights)
    assert full in str(caught.value)


@pytest.mark.parametrize("rows", [15, 17, 8])
def test_a_fused_projection_must_hold_the_rows_of_all_three(rows: int, tmp_path: Path) -> None:
    weights = released(wanted(), "merged")
    weights[f"{FUSED.format(n=1)}.weight"] = torch.zeros(rows, H)
    with pytest.raises(CheckpointError, match=rf"query_key_value.*\({rows}, 8\).*\(16, 8\)"):
        load(tmp_path, weights)


@pytest.mark.parametrize("second", LAYOUTS[1:])
def test_two_layouts_at_once_are_refused(second: str, tmp_path: Path) -> None:
    ours = wanted()
    with pytest.raises(CheckpointError, match="other tensors of the checkpoint hold too"):
        load(tmp_path, {**released(ours, "one by one"), **released(ours, second)})


@pytest.mark.parametrize(
    "stray",
    [
        "model.layers.1.mlp.experts.3.gate_proj.weight",
        "model.layers.2.mlp.gate.weight",
        "model.layers.0.mlp.gate.weight",
    ],
)
def test_what_is_left_over_is_named(stray: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, {**released(wanted(), "one by one"), stray: torch.zeros(I, H)})
    assert stray in str(caught.value)


def test_nothing_is_read_before_everything_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("creditdecoding.models.weights._read_tensors", never)
    weights = released(wanted(), "one by one")
    weights.pop("model.layers.1.mlp.experts.2.down_proj.weight")
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path, weights, files=3)


def test_one_released_tensor_may_have_several_names(tmp_path: Path) -> None:
    rename = {
        **RENAME,
        "embed.weight": ("transformer.wte.weight", Part("model.word_embeddings.weight")),
    }
    assert torch.equal(
        load(tmp_path, released(wanted(), "merged"), rename=rename).embed.weight,
        wanted()["embed.weight"],
    )


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    write_weights(released(wanted(), "one by one"), tmp_path, 3)
    seen: list[tuple[int, int]] = []
    load_weights(
        net(), tmp_path, RENAME, CPU, torch.float32, lambda done, total: seen.append((done, total))
    )
    size = sum(
        4 * torch.Size(header.shape).numel() for header in read_headers(shards(tmp_path)).values()
    )
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (
        size,
        size,
    )
    assert {total for _, total in seen} == {size}


# --- where checkpoints come from

REV = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a fault, in three files."""
    return make("llada", tmp_path_factory.mktemp("loading") / "whole", shards=3, n_kv_heads=2)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "spoilt"))


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    """A hub cache that holds it as some-org/some-model, its branch main and its tag v1."""
    repo = tmp_path / "cache" / "models--some-org--some-model"
    shutil.copytree(whole, repo / "snapshots" / REV)
    (repo / "refs").mkdir()
    for name in ("main", "v1"):
        (repo / "refs" / name).write_text(REV)
    return tmp_path / "cache"


def one_line(error: CheckpointError | OptionError | MissingExtraError) -> str:
    """The message of an error, held to the shape that every error has."""
    assert (
        error.hint
        and str(error).endswith(error.hint)
        and len(str(error).splitlines()) == 1
        and len(str(error)) < 600
    ), error
    return str(error)


@pytest.mark.parametrize("revision", [None, "main", "v1", REV])
def test_what_is_in_the_cache_loads_offline(revision: str | None, cache: Path, whole: Path) -> None:
    options: dict[str, Any] = {
        "offline": True,
        "cache_dir": str(cache),
        "revision": revision,
        "device": "cpu",
    }
    model = creditdecoding.load("some-org/some-model", **options).model
    expected = load_model(whole, EngineConfig(device="cpu")).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert describe("some-org/some-model", EngineConfig(**options))["checkpoint"].endswith(REV)


@pytest.mark.parametrize(
    "lost",
    [
        "model-00002-of-00003.safetensors",
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
    ],
)
def test_a_partial_download_is_not_trusted(lost: str, cache: Path) -> None:
    snapshot = cache / "models--some-org--some-model" / "snapshots" / REV
    (snapshot / lost).unlink()
    if lost.startswith("model.safetensors"):
        (snapshot / "model-00002-of-00003.safetensors").unlink()
        lost = "model-00002-of-00003.safetensors"
    with pytest.raises(CheckpointError) as caught:
        creditdecoding.load("some-org/some-model", offline=True, cache_dir=str(cache), device="cpu")
    assert lost in one_line(caught.value)


@pytest.mark.parametrize(
    ("name", "revision"), [("some-org/other-model", None), ("some-org/some-model", "v2")]
)
def test_offline_and_not_cached_says_so(name: str, revision: str | None, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="offline") as caught:
        resolve_checkpoint(name, revision, True, str(cache))
    assert name in one_line(caught.value) and (revision or "") in str(caught.value)


def test_a_folder_has_no_revision(whole: Path) -> None:
    for name in (str(whole), "pocket"):
        with pytest.raises(OptionError, match="revision"):
            resolve_checkpoint(name, "main")


def hub_error(kind: type[Exception]) -> Exception:
    """An error of the hub's client; some want the response of a server."""
    error = kind.__new__(kind, "401 Client Error.\nCannot access gated repo for url https://x.")
    error.args = ("401 Client Error.\nCannot access gated repo for url https://x.",)
    return error


HUB: list[tuple[type[Exception], str]] = [
    (GatedRepoError, "accepted its terms"),
    (RepositoryNotFoundError, "no such checkpoint"),
    (RevisionNotFoundError, "no such revision"),
    (OfflineModeIsEnabled, "offline"),
    (LocalEntryNotFoundError, "the hub did not give it"),
    (ConnectionError, "network"),
]


@pytest.mark.parametrize(("kind", "said"), HUB)
def test_what_the_hub_refuses_is_told_apart(
    kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("creditdecoding.checkpoint.snapshot_download", fail)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint("some-org/some-model", "v1")
    assert said in one_line(caught.value) and "some-org/some-model at v1" in str(caught.value)


def test_the_options_reach_the_hub_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "creditdecoding.checkpoint.snapshot_download",
        lambda name, **given: asked.append(given) or str(folder),
    )
    assert resolve_checkpoint("some-org/some-model", "v1", False, "/somewhere") == folder
    assert {
        "revision": "v1",
        "cache_dir": "/somewhere",
        "local_files_only": False,
    }.items() <= asked[0].items()


# --- what is refused, in the library and on the command line


def edit(**changes: Any) -> Callable[[Path], object]:
    """Change fields of config.json."""
    return lambda folder: write_json(
        folder / "config.json",
        {**creditdecoding.checkpoint.read_json(folder / "config.json"), **changes},
    )


def recast(dtype: torch.dtype) -> Callable[[Path], object]:
    """One matrix in another dtype."""

    def apply(folder: Path) -> None:
        path = folder / "model-00002-of-00003.safetensors"
        found = load_file(path)
        name = max(found, key=lambda each: found[each].numel())
        save_file({**found, name: found[name].to(dtype)}, str(path))

    return apply


def pickled(folder: Path) -> None:
    """Weights that could run code."""
    for i, path in enumerate(shards(folder)):
        path.rename(folder / f"pytorch_model-{i}.bin")
    (folder / "model.safetensors.index.json").unlink()


def pointer(name: str) -> Callable[[Path], object]:
    """A file that git-lfs did not fetch."""
    return lambda folder: (folder / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9000000000\n"
    )


def cut(folder: Path) -> None:
    """The last file ends too early."""
    path = folder / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "shard missing": (
        lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
        ("model-00002-of-00003.safetensors",),
    ),
    "shard truncated": (cut, ("model-00003-of-00003.safetensors", "truncated")),
    "float8": (recast(torch.float8_e4m3fn), ("F8_E4M3", "bfloat16")),
    "int8": (recast(torch.int8), ("I8", "bfloat16")),
    "quantised by config": (edit(quantization_config=FP8), ("fp8", "bfloat16")),
    "gptq": (edit(quantization_config={"quant_method": "gptq", "bits": 4}), ("gptq",)),
    "pickled": (pickled, ("pytorch_model-0.bin", "save_pretrained")),
    "pointer for weights": (
        pointer("model-00002-of-00003.safetensors"),
        ("model-00002-of-00003.safetensors", "git lfs pull"),
    ),
    "pointer for the tokenizer": (pointer("tokenizer.json"), ("tokenizer.json", "git lfs pull")),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ("tokenizer.json",)),
    "its own code": (
        edit(architectures=["OtherModelLM"]),
        ("OtherModelLM", "its own code", "LLaDAModelLM"),
    ),
    "unsupported": (
        edit(architectures=["LlamaForCausalLM"], auto_map=None),
        ("LlamaForCausalLM", "LLaDAModelLM"),
    ),
    "config of another size": (
        edit(mlp_hidden_size=64),
        ("ff_out.weight", "(32, 96)", "(32, 64)", "do not belong together"),
    ),
    "more layers in config": (edit(n_layers=3), ("blocks.2",)),
    "fewer layers in config": (edit(n_layers=1), ("blocks.1",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_checkpoint_is_refused_in_one_line(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("creditdecoding.models.weights._read_tensors", never)
    spoil, named = REFUSED[case]
    spoil(folder)
    with pytest.raises(CheckpointError) as caught:
        creditdecoding.load(str(folder), device="cpu")
    said = one_line(caught.value)
    assert all(part in said for part in named), said
    monkeypatch.setattr(sys, "argv", ["credit", "info", "--model", str(folder), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and err == f"error: {said}\n"


# --- what it costs

MEASURE = """
import re, sys, torch
from pathlib import Path
from safetensors.torch import load_file
from torch import nn
from creditdecoding.models import weights
torch.set_num_threads(1)
MIB = 2**20
def status(key): return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
def net():
    with torch.device("meta"):
        return nn.ModuleList(nn.Linear(1024, 2048, bias=False) for _ in range(16))
rename = {f"{i}.weight": f"w{i}" for i in range(16)}
window = weights.WINDOW
one_by_one = weights._read_tensors
for folder, size, name in ((sys.argv[1], window, "shards"), (sys.argv[2], 20 * MIB, "windows"), (sys.argv[1], window, "all at once")):
    weights.WINDOW = size
    if name == "all at once":
        weights._read_tensors = lambda found: list(one_by_one(found))
    model, before = net(), status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    weights.load_weights(model, Path(folder), rename, torch.device("cpu"), torch.float32)
    print(name, status("VmHWM") - before)
    assert all((layer.weight == i).all() for i, layer in enumerate(model))
    del model
"""


def test_the_host_holds_the_weights_and_one_shard_at_most(tmp_path: Path) -> None:
    """128 MiB of weights in 4 files of 32, and in one file of which 20 are mapped at a time;
    holding all files would be seen.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("measured through /proc")
    tensors = {f"w{i}": torch.full((2048, 1024), float(i)) for i in range(16)}
    for name, files in (("many", 4), ("one", 1)):
        (tmp_path / name).mkdir()
        write_weights(tensors, tmp_path / name, files)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "many"), str(tmp_path / "one")]
    given_back = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # what is freed leaves the process, so that each part starts even
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=given_back
    )
    peak = {
        name: float(mib)
        for name, _, mib in (line.rpartition(" ") for line in done.stdout.splitlines())
    }
    assert 128 <= peak["shards"] < 128 + 32 + 12, peak
    assert 128 <= peak["windows"] < 128 + 20 + 12, peak
    assert peak["all at once"] > 128 + 64, peak


def test_the_need_is_that_of_the_loaded_weights(tmp_path: Path) -> None:
    for family in ("llada", "llada2"):
        made = make(family, tmp_path / family)
        for kind in ("float32", "bfloat16"):
            loaded = load_model(made, EngineConfig(device="cpu", dtype=kind)).state_dict().values()
            held = sum(w.numel() * w.element_size() for w in loaded)
            assert memory.weight_bytes(build_on_meta(made)[0], getattr(torch, kind)) == held


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_too_little_memory_is_refused_before_a_file_is_opened(
    kind: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(device="cpu", dtype=kind)
    count = sum(weight.numel() for weight in load_model(whole, engine).parameters())
    need = count * getattr(torch, kind).itemsize + max(
        path.stat().st_size for path in shards(whole)
    )
    load_model(whole, engine, free=lambda device: need)
    load_model(whole, engine, free=lambda device: None)
    monkeypatch.setattr("creditdecoding.models.weights.safe_open", None)
    with pytest.raises(CheckpointError, match="not enough memory on cpu") as caught:
        load_model(whole, engine, free=lambda device: need - 1)
    said = one_line(caught.value)
    assert (
        memory.format_bytes(need) in said
        and memory.format_bytes(need - 1) in said
        and "int8" in said
        and "another device" in said
    )
    assert ("dtype bfloat16" in said) == (kind == "float32")


def test_the_way_out_is_smaller_than_what_was_refused(whole: Path) -> None:
    model = build_on_meta(whole)[0]
    with pytest.raises(CheckpointError) as caught:
        memory.check_memory(model, [], torch.device("cpu"), torch.float32, "int8", lambda device: 0)
    assert (
        f"dtype bfloat16 ({memory.format_bytes(memory.weight_bytes(model, torch.bfloat16, 'int8'))})"
        in one_line(caught.value)
    )


def test_another_device_needs_the_weights_and_the_host_one_file(whole: Path) -> None:
    model, files, gpu = build_on_meta(whole)[0], shards(whole), torch.device("meta")
    weights, reading = (
        memory.weight_bytes(model, torch.bfloat16),
        max(path.stat().st_size for path in files),
    )

    def check(on_gpu: int, on_host: int) -> None:
        memory.check_memory(
            model,
            files,
            gpu,
            torch.bfloat16,
            "none",
            lambda device: on_host if device.type == "cpu" else on_gpu,
        )

    check(weights, reading)
    with pytest.raises(CheckpointError, match="on meta"):
        check(weights - 1, reading)
    with pytest.raises(CheckpointError, match="on cpu"):
        check(weights, reading - 1)


def test_what_the_host_has_is_the_least_of_system_and_control_groups(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"

    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert memory.host_free_bytes(proc, groups) is None
    write(proc / "meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.host_free_bytes(proc, groups) == 4000 * 1024
    write(proc / "self/cgroup", "0::/a/b\n")
    write(groups / "a/b/memory.max", "max\n")
    write(groups / "a/b/memory.current", "1000\n")
    assert memory.host_free_bytes(proc, groups) == 4000 * 1024
    for name, text in (
        ("max", "500000\n"),
        ("current", "450000\n"),
        ("stat", "anon 5\ninactive_file 30000\n"),
    ):
        write(groups / f"a/memory.{name}", text)
    assert memory.host_free_bytes(proc, groups) == 80000
    write(proc / "self/cgroup", "4:memory:/job\n0::/\n")
    write(groups / "memory/job/memory.limit_in_bytes", "70000")
    write(groups / "memory/job/memory.usage_in_bytes", "90000")
    assert memory.host_free_bytes(proc, groups) == 0
    write(groups / "memory/job/memory.limit_in_bytes", "9223372036854771712")
    assert memory.host_free_bytes(proc, groups) == 4000 * 1024


def test_this_machine_has_some_memory() -> None:
    found = memory.free_bytes(torch.device("cpu"))
    assert found is None or found > 2**20


# --- int8


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    """Logits of a few rows at every position."""
    tokens = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(0))
    found: Tensor = model(
        tokens, (torch.arange(4).repeat_interleave(24), torch.arange(24).repeat(4))
    )
    return found.float()


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llada", "llada2", "fast_dllm"])
def test_int8_weights_give_nearly_the_same_logits(family: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    made = make(family, tmp_path, shards=2)
    plain, small = (
        load_model(made, EngineConfig(device="cpu", dtype=kind, quantize=how))
        for how in ("none", "int8")
    )
    exact, found = logits(plain), logits(small)
    error = ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).median()
    assert 0 < error < 0.03, error
    names = {
        name for name, weight in small.named_parameters() if type(weight).__name__ == "Int8Tensor"
    }
    assert names == {
        name for name, weight in plain.named_parameters() if memory.is_quantised(name, weight)
    }
    assert names and not any(
        "norm" in name or "router" in name or name.startswith(("embed", "head")) for name in names
    )
    held = sum(
        sum(part.numel() * part.element_size() for part in parts(weight))
        for weight in small.state_dict().values()
    )
    assert held == memory.weight_bytes(build_on_meta(made)[0], getattr(torch, kind), "int8")


def parts(weight: Tensor) -> list[Tensor]:
    """The tensors that a weight is made of."""
    return [weight.qdata, weight.scale, weight.zero_point] if hasattr(weight, "qdata") else [weight]


def test_a_long_weight_is_made_int8_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    for shape in ((50, 16), (7, 6, 16)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        monkeypatch.setattr(quantize, "_PART_ELEMENTS", 2**24)
        whole = quantize.int8_transform()("layers.0.q.weight", weight)
        monkeypatch.setattr(quantize, "_PART_ELEMENTS", 100)
        split = quantize.int8_transform()("layers.0.q.weight", weight)
        assert all(torch.equal(a, b) for a, b in zip(parts(whole), parts(split)))
        assert (whole.dequantize() - weight).abs().max() < weight.abs().max() / 200


def test_without_torchao_the_extra_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError) as caught:
        creditdecoding.load(str(whole), device="cpu", quantize="int8")
    assert "creditdecoding[quant]" in one_line(caught.value)


# --- what is shown


@pytest.mark.parametrize("family", ["llada", "llada_moe", "llada2", "sdar", "fast_dllm"])
def test_info_shows_what_will_be_loaded_and_reads_no_weight(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(family, tmp_path, bf16=True, shards=2)
    count = sum(
        weight.numel()
        for weight in load_model(made, EngineConfig(device="cpu")).state_dict().values()
    )
    monkeypatch.setattr("creditdecoding.models.weights._read_tensors", None)
    shown = describe(str(made), EngineConfig(device="cpu"))
    assert shown["parameters"] == count
    assert [text.split(" (")[0] for text in shown["weight files"]] == [
        path.name for path in shards(made)
    ]
    assert "bfloat16" in shown["dtype of the files"] and shown["loads in"] == "float32"
    assert shown["memory in float32"] == memory.format_bytes(4 * count)
    block = {"llada2": 32, "sdar": 4, "fast_dllm": 32}.get(family)
    assert (
        shown["block length"] == (block or "any")
        and (str(block) if block else "full") in shown["attention"]
    )
    assert shown["logits of position i"] == ("at row i-1" if family == "fast_dllm" else "at row i")


class Screen(io.StringIO):
    """Standard error that is a terminal, or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "longest", "seconds", "seen"),
    [(True, 0, 9, True), (True, 2**40, 0, True), (True, 2**40, 9, False), (False, 0, 0, False)],
)
def test_a_bar_is_shown_on_a_terminal_if_loading_takes_long(
    terminal: bool,
    longest: int,
    seconds: float,
    seen: bool,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "LONG_BYTES", longest)
    monkeypatch.setattr(loading, "LONG_SECONDS", seconds)
    monkeypatch.setattr(sys, "stderr", Screen(terminal))
    load_lm(str(whole), EngineConfig(device="cpu"))
    assert ("loading" in sys.stderr.getvalue()) == seen
