"""`credit adapt`'s training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from creditdecoding.config import EngineConfig
from creditdecoding.train import adapt
from creditdecoding.train.adapt import decode_held_out
from creditdecoding.train.adapt_options import AdaptConfig
from tests.helpers.adaptations import small_run


@pytest.mark.slow
def test_the_loss_falls(tmp_path: Path) -> None:
    records = list(small_run(tmp_path, tokens=3000).run())
    first, last = records[0]["loss"], records[-1]["loss"]
    assert last < 0.7 * first


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path) -> None:
    whole = small_run(tmp_path / "whole")
    records = list(whole.run(lambda run: decode_held_out(run, 16)))
    for stop in (3, 5, 8, None):
        run = small_run(tmp_path / "killed")
        for record in run.run(lambda run: decode_held_out(run, 16)):
            if stop is not None and record["step"] >= stop:
                break
    assert _without_seconds(run.records()) == _without_seconds(records)
    expected = load_file(tmp_path / "whole/run/adapter_model.safetensors")
    adapter = load_file(tmp_path / "killed/run/adapter_model.safetensors")
    assert all(torch.equal(adapter[name], expected[name]) for name in expected)


def _without_seconds(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    left_out = ("seconds", "eval")
    return [{name: r[name] for name in r if name not in left_out} for r in records]


def test_of_several_processes_each_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def resolve(engine: EngineConfig) -> tuple[torch.device, torch.dtype]:
        tried.append(engine.device)
        return torch.device(engine.device), torch.float32

    monkeypatch.setattr(adapt, "resolve_device", resolve)
    config = AdaptConfig(tokens=1, device="cuda", processes=3)
    assert adapt._device(config, 1) == torch.device("cuda:1")
    assert "cuda:2" in tried  # the last one is there, too
    assert adapt._device(AdaptConfig(tokens=1, device="cuda"), 0) == torch.device("cuda")
    assert adapt._device(AdaptConfig(tokens=1, processes=3), 1) == torch.device("cpu")
