"""What `credit info` shows of a checkpoint, and the bar of a long load."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch

from creditdecoding.checkpoint import shards
from creditdecoding.cli import loading
from creditdecoding.cli.app import load_lm
from creditdecoding.config import EngineConfig
from creditdecoding.description import describe
from creditdecoding.models import load_model, memory
from tools.make_checkpoint import make

torch.set_num_threads(1)


@pytest.mark.parametrize("family", ["llada", "llada_moe", "llada2", "sdar", "fast_dllm"])
def test_info_shows_what_will_be_loaded_and_reads_no_weight(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(family, tmp_path, bf16=True, shards=2)
    count = sum(
        weight.numel()
        for weight in load_model(folder, EngineConfig(device="cpu")).state_dict().values()
    )
    monkeypatch.setattr("creditdecoding.models.weights._read_tensors", None)
    info = describe(str(folder), EngineConfig(device="cpu"))
    assert info["parameters"] == count
    assert [text.split(" (")[0] for text in info["weight files"]] == [
        path.name for path in shards(folder)
    ]
    assert "bfloat16" in info["dtype of the files"] and info["loads in"] == "float32"
    assert info["memory in float32"] == memory.format_bytes(4 * count)
    block = {"llada2": 32, "sdar": 4, "fast_dllm": 32}.get(family)
    assert (
        info["block length"] == (block or "any")
        and (str(block) if block else "full") in info["attention"]
    )
    assert info["logits of position i"] == ("at row i-1" if family == "fast_dllm" else "at row i")


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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "LONG_BYTES", longest)
    monkeypatch.setattr(loading, "LONG_SECONDS", seconds)
    monkeypatch.setattr(sys, "stderr", Screen(terminal))
    load_lm(str(make("llada", tmp_path)), EngineConfig(device="cpu"))
    assert ("loading" in sys.stderr.getvalue()) == seen
