"""int8 weights: close logits, the expected bytes, converted in parts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import creditdecoding
from creditdecoding.config import EngineConfig
from creditdecoding.errors import MissingExtraError
from creditdecoding.models import build_on_meta, load_model, memory, quantize
from tests.helpers.bad_checkpoints import one_line
from tools.make_checkpoint import make

torch.set_num_threads(1)


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    """Logits of four rows at every position [96, vocab]."""
    tokens = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(0))
    positions = (torch.arange(4).repeat_interleave(24), torch.arange(24).repeat(4))
    output: Tensor = model(tokens, positions)
    return output.float()


def parts(weight: Tensor) -> list[Tensor]:
    """The tensors that a weight is made of."""
    return [weight.qdata, weight.scale, weight.zero_point] if hasattr(weight, "qdata") else [weight]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llada", "llada2", "fast_dllm"])
def test_int8_weights_give_nearly_the_same_logits(family: str, dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    folder = make(family, tmp_path, shards=2)
    plain = load_model(folder, EngineConfig(device="cpu", dtype=dtype))
    small = load_model(folder, EngineConfig(device="cpu", dtype=dtype, quantize="int8"))
    exact = logits(plain)
    error = ((logits(small) - exact).norm(dim=-1) / exact.norm(dim=-1)).median()
    assert 0 < error < 0.03, error
    converted = {
        name for name, weight in small.named_parameters() if type(weight).__name__ == "Int8Tensor"
    }
    assert converted == {
        name for name, weight in plain.named_parameters() if quantize.is_quantised(name, weight)
    }
    kept = {name for name, _ in plain.named_parameters()} - converted
    assert {"embed.weight", "norm.weight"} <= kept and converted
    loaded = sum(part.nbytes for weight in small.state_dict().values() for part in parts(weight))
    meta = build_on_meta(folder)[0]
    assert memory.weight_bytes(meta, getattr(torch, dtype), "int8") == loaded


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


def test_without_torchao_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError) as caught:
        creditdecoding.load(str(make("llada", tmp_path)), device="cpu", quantize="int8")
    assert "creditdecoding[quant]" in one_line(caught.value)
