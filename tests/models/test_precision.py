"""Which dtype "auto" is: by device, processor and size of the network."""

from __future__ import annotations

import pytest
import torch

from creditdecoding import models
from creditdecoding.config import EngineConfig
from creditdecoding.models import resolve_dtype
from creditdecoding.models.precision import faster_dtype
from creditdecoding.models.transformer import Transformer
from tests.helpers.tiny_networks import network

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def network_of_size(monkeypatch: pytest.MonkeyPatch, is_large: bool) -> Transformer:
    """A network that counts as large, or as a little too small for that."""
    model = network("full")
    parameters = model.config.num_parameters()
    monkeypatch.setattr(models, "LARGE_NETWORK", parameters + (not is_large))
    return model


@pytest.mark.parametrize(
    ("is_large", "quantize", "dtype"),
    [
        (False, "none", torch.float32),
        (True, "none", torch.bfloat16),
        (True, "int8", torch.float32),
    ],
)
def test_a_cpu_takes_the_faster_dtype_for_large_networks(
    monkeypatch: pytest.MonkeyPatch, is_large: bool, quantize: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(models, "faster_dtype", lambda device: torch.bfloat16)
    model = network_of_size(monkeypatch, is_large)
    assert resolve_dtype(EngineConfig(quantize=quantize), CPU, model) == dtype


def test_a_gpu_takes_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network_of_size(monkeypatch, is_large=False)
    assert resolve_dtype(EngineConfig(), CUDA, model) == torch.bfloat16


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_dtype_that_was_asked_for_is_kept(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    model = network_of_size(monkeypatch, is_large=True)
    assert resolve_dtype(EngineConfig(dtype="float16"), device, model) == torch.float16


@pytest.mark.parametrize(
    ("name", "has_bfloat16", "has_amx", "dtype"),
    [
        ("AMD EPYC 9654", True, False, torch.bfloat16),
        ("AMD EPYC 7763", False, False, torch.float32),
        ("Intel(R) Xeon(R)", True, False, torch.float32),
        ("Intel(R) Xeon(R)", True, True, torch.bfloat16),
    ],
)
def test_a_processor_is_known_by_its_maker_and_its_instructions(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    has_bfloat16: bool,
    has_amx: bool,
    dtype: torch.dtype,
) -> None:
    capabilities = {"cpu_name": name, "avx512_bf16": has_bfloat16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert faster_dtype(CPU) == dtype


def test_a_torch_that_cannot_tell_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert faster_dtype(CPU) == torch.float32
