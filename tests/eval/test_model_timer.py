"""The share of the clock outside of the model, by a clock that only forward passes and waits move."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.eval import model_timer
from creditdecoding.eval.evaluate import evaluate
from creditdecoding.eval.model_timer import ModelTimer
from creditdecoding.lm import load
from creditdecoding.tasks import load_tasks
from tools.make_checkpoint import make


class Clock:
    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


class Steady(nn.Module):
    """A pass of three seconds."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self) -> None:
        self.clock.seconds += 3.0


def test_only_decoding_counts_and_passes_are_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(model_timer, "time", clock)
    model = Steady(clock)
    lm: Any = SimpleNamespace(model=model, device=torch.device("cpu"))

    def answers() -> Any:
        for _ in range(2):
            model()
            clock.seconds += 1.0
            yield "an answer"

    with ModelTimer(lm) as timer:
        assert timer.outside_share is None
        for _ in timer.over(answers()):
            clock.seconds += 100.0  # scoring, which is no decoding
        assert timer.outside_share == 0.25
    model()
    assert timer.outside_share == 0.25, "the hooks are gone"


def test_what_is_no_module_is_not_timed() -> None:
    lm: Any = SimpleNamespace(model=lambda: None, device=torch.device("cpu"))
    with ModelTimer(lm) as timer:
        assert list(timer.over("ab")) == ["a", "b"]
    assert timer.outside_share is None


def test_an_evaluation_says_its_share(tmp_path: Path) -> None:
    lm = load(make("llada", tmp_path / "tiny"), EngineConfig(threads=1))
    report = evaluate(lm, load_tasks("facts"), GenerationConfig(gen_length=8), limit=2)
    assert 0.0 < report.to_json()["outside_share"] < 1.0
