"""Weight files: where tensors go, what is checked before a byte is read, what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from creditdecoding.checkpoint import shards
from creditdecoding.errors import CheckpointError
from creditdecoding.models.weights import Part, Rename, experts, load_weights, read_headers, stacked
from tools.make_checkpoint import write_weights

torch.set_num_threads(1)

CPU = torch.device("cpu")
E, I, H = 3, 4, 8  # noqa: E741
HEIGHTS = {"q": 8, "k": 4, "v": 4}


class TinyMoE(nn.Module):
    """The expert layer's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(H, E, bias=False)
        self.register_buffer("bias", torch.zeros(E))
        self.gate_up = nn.Parameter(torch.empty(E, 2 * I, H))
        self.down = nn.Parameter(torch.empty(E, H, I))


class TinyLayer(nn.Module):
    """A layer with projections, and experts unless it is the first."""

    def __init__(self, n: int) -> None:
        super().__init__()
        for name, rows in HEIGHTS.items():
            setattr(self, name, nn.Linear(H, rows, bias=n == 0))
        if n:
            self.mlp = TinyMoE()


class TinyNet(nn.Module):
    """What a family's network has, as small as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, H)
        self.layers = nn.ModuleList(TinyLayer(n) for n in range(2))


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


def empty_net() -> TinyNet:
    """An empty network."""
    with torch.device("meta"):
        return TinyNet()


def random_state(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors for the network, by our names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in empty_net().state_dict().items()
    }


def as_released(ours: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The same weights as LLaDA2 files hold them, experts in one of the three layouts; written from
    the published names.
    """
    layer = "model.layers.1.mlp"
    tensors = {
        "model.word_embeddings.weight": ours["embed.weight"],
        f"{layer}.gate.weight": ours["layers.1.mlp.router.weight"],
        f"{layer}.gate.expert_bias": ours["layers.1.mlp.bias"],
        f"{FUSED.format(n=0)}.bias": torch.cat([ours[f"layers.0.{name}.bias"] for name in "qkv"]),
    }
    for n in range(2):
        rows = [ours[f"layers.{n}.{name}.weight"] for name in "qkv"]
        tensors[f"{FUSED.format(n=n)}.weight"] = torch.cat(rows)
    gate_up, down = ours["layers.1.mlp.gate_up"], ours["layers.1.mlp.down"]
    experts = {"gate": gate_up[:, :I], "up": gate_up[:, I:], "down": down}
    if layout == "transformers 5":
        tensors |= {f"{layer}.experts.gate_up_proj": gate_up, f"{layer}.experts.down_proj": down}
    elif layout == "merged":
        tensors |= {f"{layer}.experts.{name}_proj": weight for name, weight in experts.items()}
    else:
        for j in range(E):
            for name, weight in experts.items():
                tensors[f"{layer}.experts.{j}.{name}_proj.weight"] = weight[j]
    return {name: weight.contiguous().clone() for name, weight in tensors.items()}


def load(
    folder: Path,
    weights: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
    files: int = 1,
    rename: Rename = RENAME,
) -> TinyNet:
    """Write `weights`, read them back into an empty network."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, folder, files)
    model = empty_net()
    load_weights(model, folder, rename, CPU, dtype)
    return model


LAYOUTS = ("one by one", "merged", "transformers 5")


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_experts_and_fused_projections_lands_in_its_place(
    layout: str, files: int, tmp_path: Path
) -> None:
    ours = random_state()
    state = load(tmp_path, as_released(ours, layout), files=files).state_dict()
    assert state.keys() == ours.keys()
    for name, weight in ours.items():
        assert torch.equal(state[name], weight), name


def test_parameters_take_the_dtype_and_buffers_keep_theirs(tmp_path: Path) -> None:
    ours = random_state()
    halves = {
        name: w if name.endswith("expert_bias") else w.bfloat16()
        for name, w in as_released(ours, "merged").items()
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
    weights, full = as_released(random_state(), layout), f"model.layers.1.mlp.{name}"
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
    weights = as_released(random_state(), "merged")
    weights[f"{FUSED.format(n=1)}.weight"] = torch.zeros(rows, H)
    with pytest.raises(CheckpointError, match=rf"query_key_value.*\({rows}, 8\).*\(16, 8\)"):
        load(tmp_path, weights)


@pytest.mark.parametrize("second", LAYOUTS[1:])
def test_two_layouts_at_once_are_refused(second: str, tmp_path: Path) -> None:
    ours = random_state()
    with pytest.raises(CheckpointError, match="other tensors of the checkpoint hold too"):
        load(tmp_path, {**as_released(ours, "one by one"), **as_released(ours, second)})


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
        load(tmp_path, {**as_released(random_state(), "one by one"), stray: torch.zeros(I, H)})
    assert stray in str(caught.value)


def test_nothing_is_read_before_everything_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("creditdecoding.models.weights._read_tensors", never)
    weights = as_released(random_state(), "one by one")
    weights.pop("model.layers.1.mlp.experts.2.down_proj.weight")
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path, weights, files=3)


def test_one_released_tensor_may_have_several_names(tmp_path: Path) -> None:
    rename = {
        **RENAME,
        "embed.weight": ("transformer.wte.weight", Part("model.word_embeddings.weight")),
    }
    assert torch.equal(
        load(tmp_path, as_released(random_state(), "merged"), rename=rename).embed.weight,
        random_state()["embed.weight"],
    )


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    write_weights(as_released(random_state(), "one by one"), tmp_path, 3)
    seen: list[tuple[int, int]] = []
    load_weights(
        empty_net(), tmp_path, RENAME, CPU, torch.float32, lambda *counts: seen.append(counts)
    )
    size = sum(header.size for header in read_headers(shards(tmp_path)).values())
    done = [count for count, _ in seen]
    assert done == sorted(set(done)) and done[-1] == size
    assert {total for _, total in seen} == {size}


MEASURE = """
import re, sys, torch
from pathlib import Path
from safetensors.torch import load_file
from torch import nn
from creditdecoding.models import weights
torch.set_num_threads(1)
MIB = 2**20
def status(key):
    text = Path("/proc/self/status").read_text()
    return int(re.search(key + r":\\s+(\\d+)", text)[1]) / 1024
def empty_net():
    with torch.device("meta"):
        return nn.ModuleList(nn.Linear(1024, 2048, bias=False) for _ in range(16))
rename = {f"{i}.weight": f"w{i}" for i in range(16)}
window = weights.WINDOW
one_by_one = weights._read_tensors
for folder, size, name in (
    (sys.argv[1], window, "shards"),
    (sys.argv[2], 20 * MIB, "windows"),
    (sys.argv[1], window, "all at once"),
):
    weights.WINDOW = size
    if name == "all at once":
        weights._read_tensors = lambda headers: list(one_by_one(headers))
    model, before = empty_net(), status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    weights.load_weights(model, Path(folder), rename, torch.device("cpu"), torch.float32)
    print(name, status("VmHWM") - before)
    assert all((layer.weight == i).all() for i, layer in enumerate(model))
    del model
"""


@pytest.mark.slow
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
    # What is freed leaves the process, so that each part starts with the same memory.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    peak = {
        name: float(mib)
        for name, _, mib in (line.rpartition(" ") for line in done.stdout.splitlines())
    }
    assert 128 <= peak["shards"] < 128 + 32 + 12, peak
    assert 128 <= peak["windows"] < 128 + 20 + 12, peak
    assert peak["all at once"] > 128 + 64, peak
