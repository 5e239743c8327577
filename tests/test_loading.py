"""Loading: where tensors land, what is checked before a byte is read, what it costs, where checkpoints come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from creditdecoding.errors import CheckpointError
from creditdecoding.models.weights import Part, Rename, experts, headers, shards, stacked, stream
from tests.make_checkpoint import write_weights

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
            self.moe = Inner()


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
    "layers.{n}.moe.router.weight": "model.layers.{n}.mlp.gate.weight",
    "layers.{n}.moe.bias": "model.layers.{n}.mlp.gate.expert_bias",
    **experts("model.layers.{n}.mlp.experts"),
}


def net() -> Net:
    """An empty network."""
    with torch.device("meta"):
        return Net()


def wanted(seed: int = 0) -> dict[str, Tensor]:
    """What the network must hold in the end, by our names."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in net().state_dict().items()}


def released(ours: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The same weights as LLaDA2 files hold them, experts in one of the three layouts; written from the published names."""
    found = {
        "model.word_embeddings.weight": ours["embed.weight"],
        "model.layers.1.mlp.gate.weight": ours["layers.1.moe.router.weight"],
        "model.layers.1.mlp.gate.expert_bias": ours["layers.1.moe.bias"],
        "model.layers.0.attention.query_key_value.bias": torch.cat([ours[f"layers.0.{name}.bias"] for name in "qkv"]),
    }
    for n in range(2):
        found[f"model.layers.{n}.attention.query_key_value.weight"] = torch.cat([ours[f"layers.{n}.{name}.weight"] for name in "qkv"])
    top, gate_up, down = "model.layers.1.mlp.experts", ours["layers.1.moe.gate_up"], ours["layers.1.moe.down"]
    gate, up = gate_up[:, :I], gate_up[:, I:]
    if layout == "transformers 5":
        found |= {f"{top}.gate_up_proj": gate_up, f"{top}.down_proj": down}
    elif layout == "merged":
        found |= {f"{top}.gate_proj": gate, f"{top}.up_proj": up, f"{top}.down_proj": down}
    else:
        for j in range(E):
            found |= {f"{top}.{j}.{name}_proj.weight": w[j] for name, w in (("gate", gate), ("up", up), ("down", down))}
    return {name: weight.contiguous().clone() for name, weight in found.items()}


def load(folder: Path, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32, files: int = 1, rename: Rename = RENAME) -> Net:
    """Write `weights`, read them back into an empty network."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, folder, files)
    model = net()
    stream(model, folder, rename, CPU, dtype)
    return model


LAYOUTS = ("one by one", "merged", "transformers 5")


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_experts_and_fused_projections_lands_in_its_place(layout: str, files: int, tmp_path: Path) -> None:
    ours = wanted()
    found = load(tmp_path, released(ours, layout), files=files).state_dict()
    assert found.keys() == ours.keys()
    for name, weight in ours.items():
        assert torch.equal(found[name], weight), name


def test_parameters_take_the_dtype_and_buffers_keep_theirs(tmp_path: Path) -> None:
    ours = wanted()
    halves = {name: w if name.endswith("expert_bias") else w.bfloat16() for name, w in released(ours, "merged").items()}
    model = load(tmp_path, halves, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and not any(p.requires_grad for p in model.parameters())
    assert isinstance(dict(model.named_buffers())["layers.1.moe.bias"], Tensor)
    assert torch.equal(model.layers[1].moe.bias, ours["layers.1.moe.bias"])  # not a bit lost


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
def test_what_is_missing_misshapen_or_there_twice_is_named(layout: str, name: str, change: str, tmp_path: Path) -> None:
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
    "stray", ["model.layers.1.mlp.experts.3.gate_proj.weight", "model.layers.2.mlp.gate.weight", "model.layers.0.mlp.gate.weight"]
)
def test_what_is_left_over_is_named(stray: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, {**released(wanted(), "one by one"), stray: torch.zeros(I, H)})
    assert stray in str(caught.value)


def test_nothing_is_read_before_everything_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("creditdecoding.models.weights._tensors", never)
    weights = released(wanted(), "one by one")
    weights.pop("model.layers.1.mlp.experts.2.down_proj.weight")
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path, weights, files=3)


def test_one_released_tensor_may_have_several_names(tmp_path: Path) -> None:
    rename = {**RENAME, "embed.weight": ("transformer.wte.weight", Part("model.word_embeddings.weight"))}
    assert torch.equal(load(tmp_path, released(wanted(), "merged"), rename=rename).embed.weight, wanted()["embed.weight"])


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    write_weights(released(wanted(), "one by one"), tmp_path, 3)
    seen: list[tuple[int, int]] = []
    stream(net(), tmp_path, RENAME, CPU, torch.float32, lambda done, total: seen.append((done, total)))
    size = sum(4 * torch.Size(header.shape).numel() for header in headers(shards(tmp_path)).values())
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1] == (size, size)
    assert {total for _, total in seen} == {size}
