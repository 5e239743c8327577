"""`credit adapt`'s training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from creditdecoding.train.adapt import decode_held_out
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
